"""The same weights for every side, from tests/golden/recipe.py, converted to the form of each.

Does not know what is measured. The conversion of names for transformers is our own. transformers itself rejects
names and shapes that it does not know.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.network.config import VARIANTS
from model.network.memory import VideoMemory
from model.network.sam2 import Sam2
from tests.golden import video_recipe
from tests.golden.recipe import weight

VARIANT = "sam2.1_hiera_tiny"

_MASK_DOWNSCALING = {"0": "conv1", "1": "layer_norm1", "3": "conv2", "4": "layer_norm2", "6": "conv3"}
_UPSCALING = {"0": "upscale_conv1", "1": "upscale_layer_norm", "3": "upscale_conv2"}

_RENAMES = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"^no_mem_embed$", "no_memory_embedding"),
)

_VIDEO_RENAMES = (
    (r"mask_downsampler\.encoder\.12\.", "mask_downsampler.final_conv."),
    (r"\.pix_feat_proj\.", ".feature_projection."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"\.fuser\.", ".memory_fuser."),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
    (r"\.gamma$", ".scale"),
    (r"\.norm\.", ".layer_norm."),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
)
"""Applied before the others."""

_VIDEO_ONLY = ("memory_", "obj_ptr_", "maskmem_", "no_obj_", "no_mem_pos_enc", "mask_downsample.")
_MASK_STEP, _MASK_STEPS = 3, 4
"""The mask downsampler has four steps of a convolution, a norm and an activation, then a convolution."""


def golden_state(variant: str = VARIANT) -> dict[str, Tensor]:
    """Return the golden weights of the image half: float32 tensors by name, as in released checkpoints."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Sam2(VARIANTS[variant]).state_dict().items()}
    return {name: torch.from_numpy(weight(name, shape)) for name, shape in shapes.items()}


def video_state(variant: str = VARIANT) -> dict[str, Tensor]:
    """Return the golden weights of both halves for videos, under their names in released checkpoints."""
    config = VARIANTS[variant]
    with torch.device("meta"):
        tensors = Sam2(config).state_dict() | VideoMemory(config).state_dict()
    return {
        name: torch.from_numpy(video_recipe.weight(name, tuple(tensor.shape)))
        for name, tensor in tensors.items()
    }


def save_checkpoint(state: Mapping[str, Tensor], path: Path) -> Path:
    """Write `state` as a .safetensors file for SAM2_CHECKPOINT. Return `path`."""
    save_file(dict(state), path)
    return path


def plain_model(state: Mapping[str, Tensor], *, variant: str = VARIANT) -> Sam2:
    """Return our reference network in float32, as in the paper."""
    with torch.device("meta"):
        model = Sam2(VARIANTS[variant])
    model.load_state_dict(dict(state), assign=True)
    return model.eval().requires_grad_(False)


def transformers_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same weights under the names of transformers' Sam2Model.

    transformers stores the position frequencies twice, so one tensor becomes two. Four point embeddings become one
    table.
    """
    depths = _mlp_depths(state)
    converted: dict[str, Tensor] = {}
    points = {}
    for name, tensor in state.items():
        if match := re.search(r"point_embeddings\.(\d)\.weight$", name):
            points[int(match[1])] = tensor
        else:
            converted[_transformers_name(name, depths)] = tensor
    converted["prompt_encoder.point_embed.weight"] = torch.cat([points[i] for i in sorted(points)])
    converted["shared_image_embedding.positional_embedding"] = converted[
        "prompt_encoder.shared_embedding.positional_embedding"
    ]
    return converted


def transformers_video_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of both halves under the names of transformers' Sam2VideoModel."""
    return transformers_state({_video_name(name): tensor for name, tensor in state.items()})


def _video_name(name: str) -> str:
    """Names of the image half stay, for `transformers_state`."""
    if not name.startswith(_VIDEO_ONLY):
        return name
    if match := re.match(r"(.*\.mask_downsampler)\.encoder\.(\d+)\.(\w+)$", name):
        step, kind = divmod(int(match[2]), _MASK_STEP)
        if step < _MASK_STEPS:
            return f"{match[1]}.layers.{step}.{('conv', 'layer_norm')[kind]}.{match[3]}"
    for pattern, replacement in _VIDEO_RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _mlp_depths(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the layers of each perceptron, by the name before `.layers.`. Leaves out the two-way transformer."""
    depths: dict[str, int] = {}
    for name in state:
        if match := re.match(r"(.*)\.layers\.(\d+)\.weight$", name):
            depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    return depths


def _transformers_name(name: str, depths: Mapping[str, int]) -> str:
    match = re.match(r"(.*)\.layers\.(\d+)\.(weight|bias)$", name)
    if match and match[1] in depths:
        perceptron, layer, kind = match[1], int(match[2]), match[3]
        last = depths[perceptron] - 1
        place = "proj_in" if layer == 0 else "proj_out" if layer == last else f"layers.{layer - 1}"
        name = f"{perceptron}.{place}.{kind}"
    if match := re.match(r"sam_prompt_encoder\.mask_downscaling\.(\d)\.(\w+)$", name):
        name = f"prompt_encoder.mask_embed.{_MASK_DOWNSCALING[match[1]]}.{match[2]}"
    if match := re.match(r"sam_mask_decoder\.output_upscaling\.(\d)\.(\w+)$", name):
        name = f"mask_decoder.{_UPSCALING[match[1]]}.{match[2]}"
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
