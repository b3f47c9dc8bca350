"""ONNX Runtime on the plain decoder graph: the peer in browsers and C++."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime

from model.types import Pixels
from tests.bench.plain_decoder import GraphPeer


class OnnxRuntime(GraphPeer):
    """A session on the CPU."""

    def __init__(self, graph: bytes, pictures: Sequence[Pixels], *, name: str, num_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        shapes = {each.name: each.shape for each in self._session.get_inputs()}
        super().__init__(pictures, name=name, mask_size=shapes["mask_input"][-1])

    def run(
        self, inputs: Mapping[str, npt.NDArray[np.generic]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """See GraphPeer."""
        logits, iou = self._session.run(["logits", "iou"], dict(inputs))
        return logits, iou
