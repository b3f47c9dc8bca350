"""Which model weights belong to, told by the names and shapes of their parameters.

Does not know about files or values.
"""

import re
from collections.abc import Mapping

from model.network.config import BUILTIN, VARIANTS

Shape = tuple[int, ...]

VIDEO_MEMORY_PREFIXES = (
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "mask_downsample.",
    "memory_attention.",
    "memory_encoder.",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
)
"""Parameters of released files that only video tracking needs: those of network/memory.py."""

_ONLY_IN_RELEASE_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.")
_PATCH_EMBEDDING = "image_encoder.trunk.patch_embed.proj.weight"
_BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.")


def identify(shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """Name the variants that parameters of these names and shapes can belong to; none if they are unknown.

    The trunk's width and depth tell the size. The video-memory parts tell the release; without any, a file
    can be of either. The built-in model has none, and a trunk of its own.
    """
    channels, blocks = _trunk(shapes)
    releases = _releases(shapes)
    return tuple(
        variant
        for variant, config in VARIANTS.items()
        if (channels, blocks) == (config.trunk.embed_dim, config.trunk.depth)
        and variant.partition("_")[0] in releases
    )


def describe_trunk(shapes: Mapping[str, Shape]) -> str:
    """Say in words what image encoder these parameters have."""
    channels, blocks = _trunk(shapes)
    return f"a trunk of {channels} channels and {blocks} blocks" if channels else "no image encoder of SAM 2"


def _trunk(shapes: Mapping[str, Shape]) -> tuple[int, int]:
    """Channels of the first stage, and blocks of all stages together."""
    patches = shapes.get(_PATCH_EMBEDDING)
    blocks = {match[1] for match in map(_BLOCK.match, shapes) if match}
    return patches[0] if patches else 0, len(blocks)


def _releases(names: Mapping[str, object]) -> tuple[str, ...]:
    if any(name.startswith(_ONLY_IN_RELEASE_2_1) for name in names):
        return ("sam2.1",)
    if any(name.startswith(VIDEO_MEMORY_PREFIXES) for name in names):
        return ("sam2",)
    return ("sam2.1", "sam2", BUILTIN)
