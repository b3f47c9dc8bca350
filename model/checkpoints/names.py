"""The names that parameters have in Meta's release, from the names that other programs give them.

Knows transformers' Sam2Model and Sam2VideoModel, and wrappers that put a word before every name. Does not know
about files or shapes: what has no known name keeps its own.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from model.errors import CheckpointError

_OF_META = "image_encoder.trunk.patch_embed.proj.weight"
_OF_TRANSFORMERS = "vision_encoder.backbone.patch_embed.projection.weight"
"""One parameter that every SAM 2 has, under the name that tells who named it."""

_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"
_IMAGE_POSITIONS = "shared_image_embedding.positional_embedding"
_POINTS = "prompt_encoder.point_embed.weight"

_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Words of torch.compile, of FullyShardedDataParallel and of activation checkpointing, which wrap any module: they
stand before every name, or amid those of one part."""

_HEADS = r"(\.iou_prediction_head|\.pred_obj_score_head|\.output_hypernetworks_mlps\.\d|object_pointer_proj)"

_TRANSFORMERS_TO_META: tuple[tuple[str, str], ...] = (
    # three-layer heads: proj_in, one layer between, proj_out
    (_HEADS + r"\.layers\.0\.", r"\1.layers.1."),
    (_HEADS + r"\.proj_in\.", r"\1.layers.0."),
    (_HEADS + r"\.proj_out\.", r"\1.layers.2."),
    (r"\.mlp\.proj_in\.", ".mlp.layers.0."),
    (r"\.mlp\.proj_out\.", ".mlp.layers.1."),
    # modules that Meta's code numbers within an nn.Sequential
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
    (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
    (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
    (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
    (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
    *(
        (rf"\.mask_downsampler\.layers\.{i}\.{kind}\.", f".mask_downsampler.encoder.{3 * i + place}.")
        for i in range(4)
        for place, kind in enumerate(("conv", "layer_norm"))
    ),
    (r"\.mask_downsampler\.final_conv\.", ".mask_downsampler.encoder.12."),
    # single modules
    (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
    (r"\.neck\.convs\.(\d+)\.", r".neck.convs.\1.conv."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.layer_norm(\d?)\.", r".norm\1."),
    (r"\.shared_embedding\.positional_embedding$", ".pe_layer.positional_encoding_gaussian_matrix"),
    (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
    (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
    (r"\.memory_fuser\.", ".fuser."),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv(\d)\.", r".pwconv\1."),
    (r"(\.fuser\.layers\.\d+)\.scale$", r"\1.gamma"),
    # the model itself
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"^vision_encoder\.neck\.", "image_encoder.neck."),
    (r"^prompt_encoder\.", "sam_prompt_encoder."),
    (r"^mask_decoder\.", "sam_mask_decoder."),
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
    (r"^no_object_pointer$", "no_obj_ptr"),
    (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
    (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
    (r"^object_pointer_proj\.", "obj_ptr_proj."),
    (r"^temporal_positional_encoding_projection_layer\.", "obj_ptr_tpos_proj."),
)
"""Patterns and what replaces them, one after the other. Both networks have the same layers of the same shapes."""


def with_released_names(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Return the tensors under Meta's names, and whether transformers had named them.

    A word before every name, as of DistributedDataParallel ("module.") and Lightning ("model."), goes; tensors
    without it are another module's and are left out. Those of torch.compile and its like go wherever they are.
    Raises CheckpointError if the tensors are those of transformers, but not a network that Meta's names can
    describe.
    """
    tensors = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    for landmark in (_OF_META, _OF_TRANSFORMERS):
        if prefixes := _prefixes(tensors, landmark):
            prefix = prefixes[0]
            inner = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
            is_of_transformers = landmark == _OF_TRANSFORMERS
            return (_from_transformers(inner) if is_of_transformers else inner), is_of_transformers
    return dict(tensors), False


def networks_in(names: Iterable[str]) -> list[str]:
    """Return the words before the names of each network among them, the one that is used first.

    A training run may keep the moving average of its weights beside them: "model." and "model_ema.".
    """
    plain = [_WRAPPERS.sub("", name) for name in names]
    return _prefixes(plain, _OF_META) or _prefixes(plain, _OF_TRANSFORMERS)


def _prefixes(names: Iterable[str], landmark: str) -> list[str]:
    found = [name for name in names if name == landmark or name.endswith(f".{landmark}")]
    return sorted((name.removesuffix(landmark) for name in found), key=len)


def _from_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One matrix that is stored twice becomes one; one table of point embeddings becomes four."""
    if (twin := tensors.pop(_IMAGE_POSITIONS, None)) is not None:
        positions = tensors.setdefault(_POSITIONS, twin)  # older versions of transformers store one of them
        if positions.shape != twin.shape or not torch.equal(positions.float(), twin.float()):
            raise CheckpointError(
                f"{_POSITIONS} and {_IMAGE_POSITIONS} differ, and in SAM 2 they are one matrix. A new Sam2Model "
                "draws each at random, so these weights were not trained from released ones."
            )
    points = tensors.pop(_POINTS, None)
    named = {_released_name(name): tensor for name, tensor in tensors.items()}
    if points is not None and points.ndim:
        for i, row in enumerate(points.split(1)):
            named[f"sam_prompt_encoder.point_embeddings.{i}.weight"] = row
    return named


def _released_name(name: str) -> str:
    for pattern, replacement in _TRANSFORMERS_TO_META:
        name = re.sub(pattern, replacement, name)
    return name
