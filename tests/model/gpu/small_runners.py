"""Small models driven as on a GPU, and what tests ask of them."""

import numpy as np
import torch

from model.checkpoints.parameters import untrained_parameters
from model.gpu.engine import GpuEngine
from model.gpu.options import GpuOptions
from model.network.config import HieraConfig, Sam2Config
from model.network.sam2 import Sam2
from model.runner import Sam2Runner
from model.types import Embedding, Prediction, Prompt
from tests.model.gpu.host_gpu import HostGpu

SMALL = Sam2Config(
    HieraConfig(embed_dim=16, num_heads=1, stages=(1, 1, 2, 1), global_attention_blocks=(3,)),
    image_size=128,
    embed_dim=64,
)
"""Every layer there is, and small: a picture takes milliseconds."""

CLICK = Prompt(points=((30.0, 40.0),), labels=(1,))
MASK = np.linspace(-9, 9, 32 * 32, dtype=np.float32).reshape(32, 32)
OPTIONS = GpuOptions(cache_mib=1, batch_images=2, batch_prompts=8)


def make_gpu_runner(
    *,
    gpu: HostGpu | None = None,
    options: GpuOptions = OPTIONS,
    dtype: torch.dtype = torch.float32,
    config: Sam2Config = SMALL,
) -> Sam2Runner:
    with torch.device("meta"):
        model = Sam2(config)
    untrained_parameters(model, device=HostGpu.device, dtype=dtype)
    return Sam2Runner(model, name="gpu", weights_fingerprint="gpu", gpu=gpu or HostGpu(), gpu_options=options)


def engine_of(runner: Sam2Runner) -> GpuEngine:
    assert runner._engine is not None
    return runner._engine


def decode_one(runner: Sam2Runner, embedding: Embedding, prompt: Prompt = CLICK) -> Prediction:
    return runner.decode([(embedding, prompt)])[0]
