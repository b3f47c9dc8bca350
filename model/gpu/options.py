"""What the owner of a GPU decides. Plain data."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Compile: TypeAlias = Literal["auto", "on", "off"]
"""auto: captured graphs. on: compiled kernels in captured graphs. off: neither."""


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """How much memory to take, and which work to prepare for."""

    cache_mib: int | None = None
    """For embeddings that somebody keeps; those in the making come on top. None: as much as fits."""
    batch_images: int = 1
    """Pictures in one forward pass, at most."""
    batch_prompts: int = 64
    """Prompts in one forward pass, at most; rounded up to a power of two, and never more than 64."""
    track_mib: int = 0
    """For what tracks remember, if the model has a video half. It is taken as tracks need it, not at the start."""
    compile: Compile = "auto"
