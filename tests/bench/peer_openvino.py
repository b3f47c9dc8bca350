"""OpenVINO on our plain image encoder and decoder, exported to ONNX: what a user might pick instead on a CPU.

Pictures are prepared as ours are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino
import torch
from torch import Tensor, nn

from model.network.preprocessing import Preprocessing
from model.network.sam2 import Sam2
from model.types import Pixels
from tests.bench.plain_decoder import GraphPeer
from tests.bench.weights import VARIANT, plain_model

HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class PlainEncoder(nn.Module):
    """`Sam2.encode` as one graph."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self._model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 3, s, s) to image_embed, feat_s0 and feat_s1."""
        return self._model.encode(images)


def export_encoder(state: Mapping[str, Tensor], path: Path, *, variant: str = VARIANT) -> Path:
    """Write the graph of the encoder, of fixed shapes, and return its path.

    By torch's newer exporter: OpenVINO does not load what the one by tracing makes. The position embedding is
    resized beforehand, because the exporter's own folding of constants takes minutes for it.
    """
    model = plain_model(state, variant=variant)
    side = model.config.image_size
    model.image_encoder.trunk.fix_size(model.config.mask_size, model.config.mask_size)
    names = ["image_embed", "feat_s0", "feat_s1"]
    program = torch.onnx.export(
        PlainEncoder(model).eval(),
        (torch.zeros(1, 3, side, side),),
        input_names=["images"],
        output_names=names,
        dynamo=True,
        verbose=False,
    )
    program.save(path)
    return path


class OpenVino:
    """The compiled graph of the encoder for one precision and one number of threads."""

    def __init__(self, graph: Path, *, dtype: torch.dtype, num_threads: int) -> None:
        self._request = _request(graph, dtype=dtype, num_threads=num_threads)
        side = self._request.get_input_tensor().shape[-1]
        self._preprocess = Preprocessing(side=side, device=torch.device("cpu"))

    def encode(self, picture: Pixels) -> npt.NDArray[np.float32]:
        """Pixels to image_embed (c, h, w)."""
        prepared = self._preprocess(torch.from_numpy(picture))[None].numpy()
        return self._request.infer([prepared])[0][0]


class OpenVinoDecoder(GraphPeer):
    """The compiled graph of the decoder for one precision and one number of threads."""

    def __init__(
        self, graph: bytes, pictures: Sequence[Pixels], *, name: str, dtype: torch.dtype, num_threads: int
    ) -> None:
        self._request = _request(graph, dtype=dtype, num_threads=num_threads)
        mask_size = self._request.get_tensor("mask_input").shape[-1]
        super().__init__(pictures, name=name, mask_size=mask_size)

    def run(
        self, inputs: Mapping[str, npt.NDArray[np.generic]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """See GraphPeer."""
        outputs = self._request.infer(inputs, share_inputs=True)
        return outputs["logits"], outputs["iou"]


def _request(graph: Path | bytes, *, dtype: torch.dtype, num_threads: int) -> openvino.InferRequest:
    options = {
        "INFERENCE_PRECISION_HINT": HINTS[dtype],
        "INFERENCE_NUM_THREADS": num_threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    return core.compile_model(core.read_model(graph), "CPU", options).create_infer_request()
