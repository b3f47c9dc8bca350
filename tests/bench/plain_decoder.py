"""The plain decoder as an ONNX graph, exported from our reference modules, and what the peers that run it share.

The graph is the same as from exporters of Meta's code. Inputs are image maps of one picture, n prompts of points
with labels, and a mask with its switch. Outputs are four masks and scores for every prompt. The caller chooses
among them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.exporting import INPUTS
from model.network.sam2 import Sam2
from model.types import Pixels, Prompt
from tests.bench.sides import Decoded, Maps, coco_rles, square_boxes, square_points

STABILITY_DELTA, STABILITY_THRESHOLD = 0.05, 0.98


class PlainDecoder(nn.Module):
    """Prompt encoder and mask decoder as one graph."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.prompts, self.decoder = model.sam_prompt_encoder, model.sam_mask_decoder

    def forward(
        self,
        image_embed: Tensor,
        high_res_feats_0: Tensor,
        high_res_feats_1: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode maps (1, c, h, w), points (n, p, 2), labels (n, p), mask (1, 1, 256, 256), switch (1,) of 0 or 1.

        Returns logits (n, 4, 256, 256) and IoU (n, 4).
        """
        n = point_coords.shape[0]
        masked = self.prompts.embed_masks(mask_input)
        dense = has_mask_input * masked + (1 - has_mask_input) * self.prompts.embed_no_mask()
        output = self.decoder(
            image_embed.expand(n, -1, -1, -1),
            high_res_feats_0.expand(n, -1, -1, -1),
            high_res_feats_1.expand(n, -1, -1, -1),
            sparse=self.prompts.embed_points(point_coords, point_labels),
            dense=dense,
            image_positions=self.prompts.image_positions(),
        )
        return output.logits, output.iou


def export(model: Sam2) -> bytes:
    """Return the plain decoder graph. The numbers of prompts and points are variable."""
    side = model.config.embedding_size
    dim = model.config.embed_dim
    inputs = (
        torch.zeros(1, dim, side, side),
        torch.zeros(1, dim // 8, 4 * side, 4 * side),
        torch.zeros(1, dim // 4, 2 * side, 2 * side),
        torch.zeros(2, 2, 2),
        torch.tensor([[1, -1], [1, -1]]),
        torch.zeros(1, 1, 4 * side, 4 * side),
        torch.zeros(1),
    )
    file = BytesIO()
    torch.onnx.export(
        PlainDecoder(model).eval(),
        inputs,
        file,
        input_names=list(INPUTS),
        output_names=["logits", "iou"],
        dynamic_axes={name: {0: "prompts", 1: "points"} for name in ("point_coords", "point_labels")}
        | {name: {0: "prompts"} for name in ("logits", "iou")},
        opset_version=17,
        dynamo=False,
    )
    return file.getvalue()


class GraphPeer(ABC):
    """Implements Side, where a runtime runs the graph. Holds the maps of every picture."""

    sorts_by_iou = False

    def __init__(self, pictures: Sequence[Pixels], *, name: str, mask_size: int) -> None:
        """`mask_size` is the side of the graph's mask input, a quarter of that of the model's square picture."""
        self.name = name
        self._pictures = pictures
        self._maps: list[Maps] = []
        self._side = 4 * mask_size
        self._no_mask = {
            "mask_input": np.zeros((1, 1, mask_size, mask_size), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
        }

    @abstractmethod
    def run(
        self, inputs: Mapping[str, npt.NDArray[np.generic]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return logits (n, 4, h, w) and IoU (n, 4) for the graph's inputs by name."""

    def take(self, maps: Sequence[Maps]) -> None:
        """Store the embeddings of the pictures, in order."""
        self._maps = list(maps)

    def decode(self, picture: int, prompts: Sequence[Prompt]) -> list[Decoded]:
        """See Side."""
        coords, labels = self._point_tokens(self._pictures[picture], prompts)
        logits, iou = self.run(
            {**self._maps[picture], **self._no_mask, "point_coords": coords, "point_labels": labels}
        )
        return [_select(*pair, prompt) for *pair, prompt in zip(logits, iou, prompts, strict=True)]

    def answer(self, picture: int, prompts: Sequence[Prompt]) -> list[list[str]]:
        """See Side."""
        height, width = self._pictures[picture].shape[:2]
        return [
            coco_rles(torch.from_numpy(decoded.logits), height=height, width=width)
            for decoded in self.decode(picture, prompts)
        ]

    def crowd(self, prompts: Sequence[Prompt]) -> list[list[str]]:
        """See Side. One by one."""
        return [self.answer(i, [prompt])[0] for i, prompt in enumerate(prompts)]

    def _point_tokens(
        self, picture: Pixels, prompts: Sequence[Prompt]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        if prompts[0].points:
            coords = square_points(picture, prompts, side=self._side)
            labels = torch.tensor([p.labels for p in prompts])
        else:
            coords = square_boxes(picture, prompts, side=self._side).unflatten(1, (2, 2))
            labels = torch.tensor([[2, 3]]).expand(len(prompts), 2)
        coords = torch.cat([coords, torch.zeros(len(prompts), 1, 2)], dim=1)
        labels = torch.cat([labels, torch.full((len(prompts), 1), -1)], dim=1)
        return coords.numpy(), labels.numpy()


def _select(logits: npt.NDArray[np.float32], iou: npt.NDArray[np.float32], prompt: Prompt) -> Decoded:
    """Choose among four masks as Meta's code does; see choose_masks in model/network/mask_decoder.py."""
    if prompt.multimask_output:
        return Decoded(logits[1:], iou[1:])
    outer = np.count_nonzero(logits[0] > -STABILITY_DELTA)
    inner = np.count_nonzero(logits[0] > STABILITY_DELTA)
    token = 0 if not outer or inner / outer >= STABILITY_THRESHOLD else 1 + int(iou[1:].argmax())
    return Decoded(logits[token : token + 1], iou[token : token + 1])
