"""All settings of the server: SAM2_* environment variables, with units in their names.

The only file that reads the environment. Does not know what the values do.
"""

import ipaddress
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.client_settings import ClientSettings
from app.limits import whole_cpus
from app.setting_checks import (
    check_bucket,
    check_cluster,
    check_database,
    check_devices,
    check_download,
    check_filled,
    check_holds_a_request,
    check_holds_an_upload,
    check_model,
    check_no_devices,
    check_path,
    check_size,
    split,
)
from model.checkpoints.download import RELEASE_URL
from model.device_names import check_device
from model.network.config import BUILTIN, VARIANTS

UNTRAINED = "untrained"
LONGEST_S = 1e9
"""Seconds that a setting may say, 31 years: timers fail beyond threading.TIMEOUT_MAX, nine times as long."""
MOST_VIDEO_FRAMES = 500_000
"""Upper limit of SAM2_MAX_VIDEO_FRAMES, and of what a request may name."""
_OF_THE_CLIENT = {"SAM2_URL", "SAM2_API_KEY"}
"""Variables that client/ reads, often set in the same shell."""


class Settings(ClientSettings, BaseSettings):
    """Values from the environment. `sam2-serve --help` prints the descriptions."""

    model_config = SettingsConfigDict(
        env_prefix="SAM2_", extra="forbid", validate_default=True, hide_input_in_errors=True
    )

    model: Annotated[str, AfterValidator(partial(check_model, known=VARIANTS))] = Field(
        BUILTIN,
        description="Model: "
        + ", ".join(VARIANTS)
        + ". The last one is small and part of this package; the others are Meta's and are downloaded. If it is "
        "not set, weights in SAM2_CHECKPOINT say which.",
    )
    checkpoint: Annotated[str, AfterValidator(check_path)] = Field(
        "",
        description="The model's weights, used instead of the released ones: a .pt of Meta's release or training "
        "code, a .safetensors in Meta's or transformers' names, or a folder that transformers saved; or "
        f"'{UNTRAINED}' for random weights, to try the server without any file.",
    )
    weights_dir: Annotated[Path, BeforeValidator(check_filled), AfterValidator(check_path)] = Field(
        Path("weights"),
        description="Folder where released checkpoints are looked for, and downloaded to if missing.",
    )
    weights_url: Annotated[str, AfterValidator(check_download)] = Field(
        RELEASE_URL, description="Base URL from which released checkpoints are downloaded."
    )
    device: Annotated[str, AfterValidator(check_device)] = Field(
        "auto", description="auto (a GPU if torch can use one), cpu, or a GPU as torch names it."
    )
    devices: Annotated[str, AfterValidator(check_devices)] = Field(
        "",
        description="Several devices of this machine, each in a process of its own: all (GPUs; if there is one, as "
        "empty), numbers of GPUs such as 0,1, or cpu:2 for two parts of the CPUs. Requires the extra cluster. "
        "Empty: SAM2_DEVICE alone.",
    )
    cluster: Annotated[str, AfterValidator(check_cluster), AfterValidator(check_no_devices)] = Field(
        "",
        description="Address of a Ray whose devices this server asks, such as 10.0.0.5:6379; auto: of the one that "
        "runs on this machine. The server then has no device of its own. Requires the extra cluster.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the model. auto: on a GPU bfloat16, or float16 below compute capability 8.0 "
        "(older than Ampere); on a CPU bfloat16 with AVX-512 BF16 or AMX, else float32.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="On a GPU only. auto: replay captured graphs; on: compile kernels as well, which takes minutes "
        "before the server is ready; off: neither.",
    )
    video: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Videos and tracks. auto: the model's part for them is loaded when the first track needs it; "
        "on: at the start, which fails if the weights lack it; off: /videos, /tracks and /propagate are refused.",
    )
    device_cache_mib: Annotated[int | Literal["auto"], PlainValidator(partial(check_size, least=1))] = Field(
        "auto",
        description="Device memory for embeddings; the least recently used ones are evicted first. On a GPU one "
        "takes 8 MiB, all of the memory is allocated at the start, and auto is what is free beside the model and "
        "its graphs, less a reserve and SAM2_TRACK_MEMORY_MIB. On a CPU one takes 22 MiB in float32 and 11 MiB in "
        "half precision, and auto is a quarter of the memory that this process may use.",
    )
    host_cache_mib: Annotated[int | Literal["auto"], PlainValidator(partial(check_size, least=0))] = Field(
        "auto",
        description="Host memory for embeddings that do not fit into a GPU's memory; 0: none. auto: a quarter of "
        "the memory that this process may use. Not used without a GPU, because both are then the same memory.",
    )
    cache_dir: Annotated[str, AfterValidator(check_path)] = Field(
        "",
        description="Folder that keeps embeddings and the names of images across restarts. Several servers may "
        "share it. Empty: they are kept in memory only.",
    )
    register_url: Annotated[SecretStr, AfterValidator(check_database)] = Field(
        SecretStr(""),
        description="PostgreSQL that keeps names and counts pictures per minute for several servers, such as "
        "postgresql://user@host/sam2. Requires the extra postgres. Empty: SAM2_CACHE_DIR has the names.",
    )
    cache_url: Annotated[str, AfterValidator(check_bucket)] = Field(
        "",
        description="Bucket of an S3-compatible store that keeps embeddings, uploads and videos in place of "
        "SAM2_CACHE_DIR, as s3://bucket/prefix; names stay in SAM2_CACHE_DIR or SAM2_REGISTER_URL. Requires the "
        "extra s3. Endpoint, region and credentials: AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID and "
        "the like.",
    )
    disk_cache_mib: int = Field(
        20480, ge=1, description="Space for embeddings and uploads in SAM2_CACHE_DIR or SAM2_CACHE_URL."
    )
    keep_uploads: bool = Field(
        default=False,
        description="Keep uploaded files in SAM2_CACHE_DIR or SAM2_CACHE_URL too, and embed them again when their "
        "embedding is no longer available.",
    )
    image_ttl_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds after which an image, a video or a track is forgotten, counted from when its id was "
        "assigned. 0: never.",
    )
    deadline_s: float = Field(
        30.0, gt=0, le=LONGEST_S, description="Longest time a request may take; then it gets 504."
    )
    everything_deadline_s: float = Field(
        300.0,
        gt=0,
        le=LONGEST_S,
        description="Longest time an /everything request may take, in place of SAM2_DEADLINE_S; then it gets 504.",
    )
    stream_idle_s: float = Field(
        300.0,
        gt=0,
        le=LONGEST_S,
        description="Close a connection to /decode/stream after this many seconds without a message.",
    )
    max_upload_mib: int = Field(64, ge=1, description="Largest picture file accepted.")
    max_image_megapixels: float = Field(
        100.0, gt=0, le=1e6, description="Largest picture accepted, in megapixels."
    )
    max_video_mib: int = Field(
        256, ge=1, description="Largest video file accepted, if SAM2_MAX_BODIES_MIB is not less."
    )
    max_video_frames: int = Field(
        10_000,
        ge=1,
        le=MOST_VIDEO_FRAMES,
        description="Most frames of one video; fps and range choose fewer of a file's.",
    )
    video_cache_mib: int = Field(
        1024,
        ge=1,
        description="Space for video files, in SAM2_CACHE_URL, in SAM2_CACHE_DIR or, without both, in memory; the "
        "least recently used ones are evicted first; in a bucket, the oldest.",
    )
    max_tracks: int = Field(
        1000, ge=1, description="Most tracks of one client. The one used longest ago goes."
    )
    track_memory_mib: int = Field(
        1024,
        ge=1,
        description="Memory for what tracks remember, on a GPU of its memory (at most a quarter of what is free "
        "there, where SAM2_DEVICE_CACHE_MIB is auto); those used longest ago give way first.",
    )
    max_prompts: int = Field(256, ge=1, le=4096, description="Most prompts in one /decode request.")
    max_waiting_images: int = Field(
        64,
        ge=1,
        description="Most pictures of one client that are being embedded or wait for it, and as many that are "
        "searched (/everything) or wait for that; of all clients together, a third more. Requests beyond this get "
        "503.",
    )
    max_waiting_prompts: Annotated[int, AfterValidator(check_holds_a_request)] = Field(
        1024,
        ge=1,
        description="Most prompts of one client that wait for the decoder, as many of searches, and as many "
        "requests on pictures that are not on the device; of all clients together, a third more. Beyond this: 503.",
    )
    max_bodies_mib: Annotated[int, AfterValidator(check_holds_an_upload)] = Field(
        1024,
        ge=1,
        description="Most memory for request bodies of one client; of all clients together, a third more. "
        "Requests beyond this get 503.",
    )
    batch_images: int = Field(
        1, ge=1, le=32, description="Most pictures in one encoder batch. Higher values suit a large GPU."
    )
    batch_prompts: int = Field(32, ge=1, description="Most prompts in one decoder batch.")
    workers: int = Field(
        default_factory=lambda: max(2, whole_cpus()),
        ge=1,
        le=4096,
        description="Threads that decode pictures and turn masks into the requested format. Default: one for each "
        "CPU that the container and the affinity allow, at least 2.",
    )
    threads: int = Field(
        0,
        ge=0,
        le=4096,
        description="Most threads of the model on a CPU; it uses fewer while other processes compete for the "
        "cores. 0: one for each core that the container and the affinity allow.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="text: lines for people; json: one object per line, for machines."
    )
    watchdog_s: float = Field(
        60.0,
        ge=0,
        le=LONGEST_S,
        description="Longest time a batch may run without a sign of life before /readyz returns 503. After three "
        "times as long, the process exits with code 3, so that its supervisor restarts it. 0: disabled.",
    )

    @field_validator("keep_uploads")
    @classmethod
    def _has_a_folder(cls, keep_uploads: bool, info: ValidationInfo) -> bool:
        if keep_uploads and not info.data.get("cache_dir") and not info.data.get("cache_url"):
            raise ValueError("uploads are kept in SAM2_CACHE_DIR or SAM2_CACHE_URL; set one of them too")
        return keep_uploads

    @field_validator("cache_url")
    @classmethod
    def _has_a_register(cls, cache_url: str, info: ValidationInfo) -> str:
        register_url: SecretStr | None = info.data.get("register_url")  # None if it is wrong itself
        if cache_url and not info.data.get("cache_dir") and register_url == SecretStr(""):
            raise ValueError(
                "the names of what is in the bucket are kept in SAM2_CACHE_DIR, a folder that outlives the "
                "server, or by SAM2_REGISTER_URL; set one of them: without names nothing in it is found or deleted"
            )
        return cache_url

    @property
    def keeps_files(self) -> bool:
        """Whether embeddings outlive the process, in a folder or a bucket."""
        return bool(self.cache_dir or self.cache_url)

    @property
    def cache_path(self) -> Path | None:
        """The folder in SAM2_CACHE_DIR, or None if it is empty."""
        return Path(self.cache_dir).expanduser().absolute() if self.cache_dir else None

    @property
    def checkpoint_path(self) -> Path | None:
        """The file or folder in SAM2_CHECKPOINT, or None if it names none."""
        return Path(self.checkpoint).expanduser() if self.checkpoint not in ("", UNTRAINED) else None

    @property
    def says_model(self) -> bool:
        """Whether SAM2_MODEL is set."""
        return "model" in self.model_fields_set


HIDDEN = {name for name, field in Settings.model_fields.items() if field.annotation is SecretStr}
"""Settings whose values are never shown."""


def wants_traces() -> bool:
    """Whether OpenTelemetry's own variables enable traces by OTLP."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return exporter == "otlp" or any(os.environ.get(name) for name in endpoints)


def unusable_proxies() -> list[str]:
    """Return parts of Uvicorn's FORWARDED_ALLOW_IPS that no proxy matches: no address, and no network of them."""
    text = os.environ.get("FORWARDED_ALLOW_IPS", "").strip()
    return [] if text == "*" else [part for part in split(text) if not _is_network(part)]


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def unknown_variables() -> list[str]:
    """Return SAM2_* variables that are not settings: most likely typing errors."""
    known = {f"SAM2_{name}".upper() for name in Settings.model_fields} | _OF_THE_CLIENT
    return sorted(
        name for name in os.environ if name.upper().startswith("SAM2_") and name.upper() not in known
    )
