"""Every knob of the server: SAM2_* environment variables, with units in their names.

The only file that reads the environment. Knows nothing of what the values do.
"""

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.limits import whole_cpus
from model.checkpoints.download import RELEASE_URL
from model.network.config import BUILTIN, VARIANTS

UNTRAINED = "untrained"
_OF_THE_CLIENT = {"SAM2_URL", "SAM2_API_KEY"}
"""What client/ reads, often in the same shell."""
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")  # also of browser extensions and desktop tools


class Settings(BaseSettings):
    """What the environment says; `sam2-serve --help` prints the descriptions."""

    model_config = SettingsConfigDict(env_prefix="SAM2_", extra="forbid", validate_default=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every network.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")

    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Who may call: name:key pairs with commas between, or a file with lines name:digest, the "
        "SHA-256 of the key in hex, read anew on SIGHUP. None: anyone who can reach the port.",
    )
    open_metrics: bool = Field(False, description="Serve /metrics without a key.")
    rate_requests_in_flight: int = Field(
        0, ge=0, description="Requests of one client answered at one time; more get 429. 0: any number."
    )
    rate_pictures_per_minute: float = Field(
        0.0, ge=0, description="Pictures embedded for one client in a minute; more get 429. 0: any number."
    )
    cors_origins: str = Field(
        "",
        description="Sites whose pages may call from a browser, as https://tool.example with commas between, or *.",
    )
    allow_urls: bool = Field(
        False, description='Fetch pictures that /embed is given as {"url": "https://..."}.'
    )

    model: str = Field(
        BUILTIN,
        description="Model: "
        + ", ".join(VARIANTS)
        + ". The last one is small and comes with this package; the others are "
        "Meta's, and are downloaded.",
    )
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
    device_cache_mib: int = Field(
        4096,
        ge=1,
        description="Memory of the device for embeddings, least recently used out first; one takes 22 MiB in "
        "float32 and 11 in half precision on a CPU, 8 on a GPU, where all of it is taken at the start.",
    )
    host_cache_mib: int = Field(
        4096,
        ge=0,
        description="Host memory for embeddings that a GPU's memory has no room for; 0 for none. Without a GPU the "
        "two are the same memory, and this one is not used.",
    )
    cache_dir: str = Field(
        "",
        description="Folder that keeps embeddings and the names of images across restarts; several servers may "
        "share it. Empty: they are kept in memory only.",
    )
    disk_cache_mib: int = Field(
        20480, ge=1, description="Disk space for embeddings and uploads in SAM2_CACHE_DIR."
    )
    keep_uploads: bool = Field(
        default=False,
        description="Keep uploaded files in SAM2_CACHE_DIR too, and embed them again where an embedding is not "
        "held any more.",
    )
    image_ttl_s: float = Field(
        0.0, ge=0, description="Forget images so many seconds after their id was given; 0 for never."
    )
    deadline_s: float = Field(30.0, gt=0, description="Longest time a request may take before it gets 504.")
    stream_idle_s: float = Field(
        300.0, gt=0, description="A connection to /decode/stream that says nothing for so long is closed."
    )
    max_upload_mib: int = Field(64, ge=1, description="Largest picture file accepted.")
    max_image_megapixels: float = Field(100.0, gt=0, description="Largest picture accepted, in pixels.")
    max_prompts: int = Field(256, ge=1, le=4096, description="Prompts in one /decode request.")
    max_waiting_images: int = Field(
        64,
        ge=1,
        description="Pictures of one client being embedded or waiting for it, of all a third more; beyond it 503.",
    )
    max_waiting_prompts: int = Field(
        1024,
        ge=1,
        description="Prompts of one client waiting for the decoder, of all a third more; beyond it 503.",
    )
    max_bodies_mib: int = Field(
        1024,
        ge=1,
        description="Request bodies of one client held in memory, of all a third more; beyond it 503.",
    )
    batch_images: int = Field(1, ge=1, description="Pictures in one encoder batch; more suit a large GPU.")
    batch_prompts: int = Field(32, ge=1, description="Prompts in one decoder batch.")
    workers: int = Field(
        default_factory=lambda: max(2, whole_cpus()),
        ge=1,
        description="Threads that decode pictures and shape masks. Default: one for each CPU that the container "
        "and the affinity allow, at least 2.",
    )
    threads: int = Field(
        0,
        ge=0,
        description="Most threads of the model on a CPU; it uses fewer while other processes compete for the "
        "cores. 0: one for each core that the container and the affinity allow.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")
    log_format: Literal["text", "json"] = Field(
        "text", description="text: a line for people; json: an object a line, for machines."
    )
    watchdog_s: float = Field(
        60.0,
        ge=0,
        description="Longest time a batch may run without a sign of life before /readyz turns 503; after three "
        "times as long the process ends with 3, for its supervisor to start it anew. 0 watches nothing.",
    )

    @field_validator("model")
    @classmethod
    def _is_a_variant(cls, name: str) -> str:
        if name not in VARIANTS:
            raise ValueError(f"{name!r} is no model; choose one of {', '.join(VARIANTS)}")
        return name

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, text: str) -> str:
        for origin in _split(text):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: https://tool.example, without a path, or *")
        return text

    @property
    def cors_origin_list(self) -> list[str]:
        """The origins that SAM2_CORS_ORIGINS names."""
        return _split(self.cors_origins)

    @field_validator("keep_uploads")
    @classmethod
    def _has_a_folder(cls, keep_uploads: bool, info: ValidationInfo) -> bool:
        if keep_uploads and not info.data.get("cache_dir"):
            raise ValueError("uploads are kept in SAM2_CACHE_DIR, which is not set")
        return keep_uploads

    @property
    def cache_path(self) -> Path | None:
        """The folder that SAM2_CACHE_DIR names, if it names one."""
        return Path(self.cache_dir).expanduser().absolute() if self.cache_dir else None

    @property
    def checkpoint_path(self) -> Path | None:
        """The file that SAM2_CHECKPOINT names, if it names one."""
        return Path(self.checkpoint).expanduser() if self.checkpoint not in ("", UNTRAINED) else None


def wants_traces() -> bool:
    """Whether OpenTelemetry's own variables ask for traces by OTLP."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return exporter == "otlp" or any(os.environ.get(name) for name in endpoints)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def unknown_variables() -> list[str]:
    """SAM2_* variables that no setting reads: most likely typing errors."""
    known = {f"SAM2_{name}".upper() for name in Settings.model_fields} | _OF_THE_CLIENT
    return sorted(
        name for name in os.environ if name.upper().startswith("SAM2_") and name.upper() not in known
    )
