"""Writes the mask decoder as an ONNX graph, for decoders that run elsewhere, such as in a browser.

Names, shapes and meanings are those of the usual exports of Meta's code. Does not know about the maps' way there.
Needs the package onnx, which serving does not.
"""

import importlib
import io
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from model.errors import ExportError
from model.network.prompt_encoder import PADDING
from model.network.sam2 import Sam2
from model.types import LOGIT_LIMIT

INPUTS = (
    "image_embed",
    "high_res_feats_0",
    "high_res_feats_1",
    "point_coords",
    "point_labels",
    "mask_input",
    "has_mask_input",
)
OUTPUTS = ("masks", "iou_predictions")
OPSET = 17


class DecoderGraph(nn.Module):
    """Prompt encoder and mask decoder, in float32, as one function of maps and prompts."""

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
        """Decode l prompts of n points each on one picture.

        Maps (1, c, h, w). `point_coords` (l, n, 2) in pixels of the model's square picture, `point_labels` (l, n):
        1 and 0, 2 and 3 for a box's corners, which come first. The padding point is appended here, unless n is 0.
        `mask_input` (l or 1, 1, 4 h, 4 w) counts where `has_mask_input` (l or 1,) is 1 and not 0.

        Returns logits (l, 4, 4 h, 4 w) and IoU (l, 4): the single mask, then the three of the multimask output.
        """
        n = point_coords.shape[0]
        coords = torch.cat([point_coords, torch.zeros_like(point_coords[:, :1])], dim=1)
        labels = torch.cat([point_labels, torch.full_like(point_labels[:, :1], PADDING)], dim=1)
        masked = self.prompts.embed_masks(mask_input.clamp(-LOGIT_LIMIT, LOGIT_LIMIT))
        has_mask = has_mask_input.reshape(-1, 1, 1, 1)
        output = self.decoder(
            image_embed.expand(n, -1, -1, -1),
            high_res_feats_0.expand(n, -1, -1, -1),
            high_res_feats_1.expand(n, -1, -1, -1),
            sparse=self.prompts.embed_points(coords, labels.long()),
            dense=has_mask * masked + (1 - has_mask) * self.prompts.embed_no_mask(),
            image_positions=self.prompts.image_positions(),
        )
        return output.logits, output.iou


def export_decoder(model: Sam2, path: Path, *, metadata: dict[str, str]) -> int:
    """Write the decoder of a model that is on the CPU in float32. Returns the bytes written.

    `metadata` goes into the file for whoever loads it. The file appears whole or not at all; what is no file,
    such as /dev/stdout, is written to. Raises ExportError, whose message says what to do, if onnx is not
    installed or the file cannot be written.
    """
    require_onnx()
    content = _with_metadata(_graph(model), metadata)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.exists() and not path.is_file():  # a device would be replaced by a file
            path.write_bytes(content)
            return len(content)
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ExportError(f"Cannot write {path}: {error.strerror or error}.") from error
    return len(content)


def require_onnx() -> None:
    """Raise ExportError unless onnx is installed."""
    try:
        importlib.import_module("onnx")
    except ImportError as error:
        raise ExportError(
            "Exporting needs the package onnx, which is not installed. Install it with the extra 'onnx', "
            "in the source tree: pip install '.[onnx]', or alone: pip install onnx."
        ) from error


def _graph(model: Sam2) -> bytes:
    side, dim = model.config.embedding_size, model.config.embed_dim
    examples = (
        torch.zeros(1, dim, side, side),
        torch.zeros(1, dim // 8, 4 * side, 4 * side),
        torch.zeros(1, dim // 4, 2 * side, 2 * side),
        torch.zeros(2, 2, 2),
        torch.ones(2, 2),
        torch.zeros(2, 1, 4 * side, 4 * side),
        torch.zeros(2),
    )
    points = {name: {0: "num_labels", 1: "num_points"} for name in ("point_coords", "point_labels")}
    others = {name: {0: "num_labels"} for name in ("mask_input", "has_mask_input", *OUTPUTS)}
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # this exporter is called old; the new one needs onnxscript and more
        torch.onnx.export(
            DecoderGraph(model).eval(),
            examples,
            file,  # type: ignore[arg-type]  # this exporter takes a file
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes=points | others,
            opset_version=OPSET,
            dynamo=False,
        )
    return file.getvalue()


def _with_metadata(graph: bytes, metadata: dict[str, str]) -> bytes:
    import onnx

    model = onnx.load_model_from_string(graph)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
