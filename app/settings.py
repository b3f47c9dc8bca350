"""Every knob of the server: SAM2_* environment variables, with units in their names.

The only file that reads the environment. Knows nothing of what the values do.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.config import VARIANTS
from model.download import RELEASE_URL

UNTRAINED = "untrained"


class Settings(BaseSettings):
    """What the environment says; `sam2-serve --help` prints the descriptions."""

    model_config = SettingsConfigDict(env_prefix="SAM2_", extra="forbid", validate_default=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every network.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")

    model: str = Field("sam2.1_hiera_tiny", description=f"Model: {', '.join(VARIANTS)}.")
    checkpoint: str = Field(
        "",
        description="File with the model's weights (.pt or .safetensors) instead of a released one, or "
        f"'{UNTRAINED}' for random weights, to try the server without any file.",
    )
    weights_dir: Path = Field(
        Path("weights"), description="Folder where released checkpoints are looked for and downloaded to."
    )
    weights_url: str = Field(RELEASE_URL, description="Where released checkpoints are downloaded from.")
    device: str = Field("auto", description="auto (a GPU where there is one) or a device as torch names it.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the model. auto: bfloat16 on a GPU and on a CPU with AVX-512 BF16 or AMX, "
        "else float32.",
    )

    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="On a GPU: auto replays captured graphs, on compiles kernels as well, which takes minutes "
        "before the server is ready, off does neither.",
    )
    cache_mib: int = Field(
        4096,
        ge=1,
        description="Memory for embeddings, least recently used out first; one takes 22 MiB in float32 "
        "and 11 in half precision on a CPU, 8 on a GPU, where all of it is taken at the start.",
    )
    deadline_s: float = Field(30.0, gt=0, description="Longest time a request may take before it gets 504.")
    max_upload_mib: int = Field(64, ge=1, description="Largest picture file accepted.")
    max_image_megapixels: float = Field(100.0, gt=0, description="Largest picture accepted, in pixels.")
    max_prompts: int = Field(256, ge=1, le=4096, description="Prompts in one /decode request.")
    max_waiting_images: int = Field(
        64, ge=1, description="Pictures being embedded or waiting for it; more get 503."
    )
    max_waiting_prompts: int = Field(1024, ge=1, description="Prompts waiting for the decoder; more get 503.")
    max_bodies_mib: int = Field(
        1024, ge=1, description="Request bodies held in memory by all requests together; more get 503."
    )
    batch_images: int = Field(1, ge=1, description="Pictures in one encoder batch; more suit a large GPU.")
    batch_prompts: int = Field(32, ge=1, description="Prompts in one decoder batch.")
    workers: int = Field(
        default_factory=lambda: max(2, os.cpu_count() or 2),
        ge=1,
        description="Threads that decode pictures and shape masks. Default: one for each CPU core, at least 2.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")

    @field_validator("model")
    @classmethod
    def _is_a_variant(cls, name: str) -> str:
        if name not in VARIANTS:
            raise ValueError(f"{name!r} is no model; choose one of {', '.join(VARIANTS)}")
        return name

    @property
    def checkpoint_path(self) -> Path | None:
        """The file that SAM2_CHECKPOINT names, if it names one."""
        return Path(self.checkpoint).expanduser() if self.checkpoint not in ("", UNTRAINED) else None


def unknown_variables() -> list[str]:
    """SAM2_* variables that no setting reads: most likely typing errors."""
    known = {f"SAM2_{name}".upper() for name in Settings.model_fields}
    return sorted(
        name for name in os.environ if name.upper().startswith("SAM2_") and name.upper() not in known
    )
