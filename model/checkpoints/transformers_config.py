"""Compares the config.json that transformers saves beside weights with the variant that will run.

Tensors tell width and depth. Windows, heads and global blocks leave no trace in them, and other ones would give
other masks without any error. Does not know about tensors.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from model.errors import CheckpointError
from model.network.config import VARIANTS, HieraConfig

logger = logging.getLogger(__name__)


def check_config(path: Path, *, variant: str) -> None:
    """Check the config.json in a folder, or beside a file, if there is one.

    Raises CheckpointError if it says another network. Another picture size is only told in the log: the same
    weights run at any, but best at the size of their training.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if variant not in VARIANTS or (trunk := _trunk_in(file)) is None:
        return
    for key, ours in _trunk_of(VARIANTS[variant].trunk).items():
        if key in trunk and trunk[key] != ours:
            raise CheckpointError(
                f"{file} says {key}={trunk[key]}, and {variant} has {ours}: another network, though its parameters "
                f"have the same names and shapes. Set SAM2_CHECKPOINT to weights of {variant}."
            )
    side, asked = VARIANTS[variant].image_size, trunk.get("image_size")
    if asked is not None and asked not in (side, [side, side]):
        logger.warning("%s says image_size=%s; %s runs at %d px here", file, asked, variant, side)


def _trunk_in(file: Path) -> Mapping[str, object] | None:
    """What a config.json says of SAM 2's image encoder; None if there is none, or it is another model's."""
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    for key in ("vision_config", "backbone_config"):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config if isinstance(config, Mapping) else None


def _trunk_of(trunk: HieraConfig) -> dict[str, object]:
    return {
        "blocks_per_stage": list(trunk.stages),
        "window_size_per_stage": list(trunk.window_sizes),
        "global_attention_blocks": list(trunk.global_attention_blocks),
        "num_attention_heads_per_stage": [trunk.num_heads * 2**i for i in range(len(trunk.stages))],
        "window_positional_embedding_background_size": list(trunk.position_embedding_size),
    }
