"""SAM 2 with both halves, and small: every layer there is, 8 x 8 cells."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from model.network.config import Sam2Config, VideoConfig
from model.network.memory import VideoMemory
from model.network.sam2 import Sam2
from model.runner import Sam2Runner
from tests.model.gpu.small_runners import SMALL

VIDEO = VideoConfig(
    says_absence=True, says_distance=True, memory_dim=16, attention_depth=2, attention_mlp_dim=128
)
CONFIG: Sam2Config = replace(SMALL, video=VIDEO)


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Fill a module on the meta device; every value matters, biases and gains too."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        values = torch.randn(tensor.shape, generator=generator)
        fan_in = max(1, tensor[0].numel()) if tensor.dim() > 1 else 1
        state[name] = values / fan_in**0.5 if tensor.dim() > 1 else 0.1 * values
        if tensor.dim() == 1 and name.endswith(("weight", "gamma")):
            state[name] += 1
    module.load_state_dict(state, assign=True)
    return module


def small_runner(dtype: torch.dtype = torch.float32) -> tuple[Sam2Runner, VideoMemory]:
    with torch.device("meta"):
        model, memory = Sam2(CONFIG), VideoMemory(CONFIG)
    randomised(model, 1)
    randomised(memory, 2)
    for parameter in (*model.parameters(), *memory.parameters()):
        parameter.data = parameter.data.to(dtype)  # not the buffers, as when a file is loaded
    memory.eval().requires_grad_(requires_grad=False)
    return Sam2Runner(model, name="small", weights_fingerprint="small"), memory
