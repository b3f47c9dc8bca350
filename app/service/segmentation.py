"""What routes and doors ask of a segmentation service, whether it runs in this process or in others.

No tensor crosses this seam: masks and files come back, and errors are ServiceErrors. Does not know who does the
work.
"""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from app.codecs.answers import Decoded, MaskOptions
from app.codecs.deep import Stretch
from app.codecs.prompts import PromptRequest
from app.segmenter import Model, Segmenter, TrackerKind
from app.service.found_masks import Criteria, Everything
from app.service.search import Report
from app.service.track_service import TrackService
from app.service.video_service import VideoService
from app.settings import Settings
from app.storage.opening import CacheLimits
from app.storage.store import ImageRecord
from app.telemetry.metrics import Metrics
from app.telemetry.stages import StageTimes

T = TypeVar("T")

EmbeddingFormat: TypeAlias = Literal["npz", "safetensors"]
EmbeddingDtype: TypeAlias = Literal["float16", "float32"]


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture that can be decoded by its id."""

    image_id: str
    height: int
    width: int
    nbytes: int
    """Of the embedding."""
    cached: bool
    """Whether no encoder ran for this request."""
    model: str


class Exported(NamedTuple):
    """A file with feature maps."""

    content: bytes
    model: str
    fingerprint: str


class NewPicture(NamedTuple):
    """An upload that is searched at once, and stored as by /embed."""

    data: bytes
    image_id: str | None
    replace: bool
    stretch: Stretch


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A Model without the model, for processes that do not have it, and how it follows objects."""

    name: str
    variant: str
    fingerprint: str
    device_name: str
    dtype_name: str
    mask_size: tuple[int, int]
    tracker: TrackerKind
    track_frame_bytes: int
    """Of what is remembered of one object on one frame."""

    @classmethod
    def of(cls, model: Segmenter) -> "ModelCard":
        """What is said of a model."""
        return cls(
            model.name,
            model.variant,
            model.fingerprint,
            model.device_name,
            model.dtype_name,
            model.mask_size,
            model.tracking.kind,
            model.tracking.frame_bytes,
        )


class FrontState(NamedTuple):
    """A server that takes requests."""

    node: str
    """The machine."""
    pid: int

    @classmethod
    def here(cls) -> "FrontState":
        """Return this process."""
        return cls(socket.gethostname(), os.getpid())


OF_DEVICES = (
    *("max_image_megapixels", "max_prompts", "max_video_frames", "max_tracks", "track_memory_mib", "video"),
    *("disk_cache_mib", "image_ttl_s"),
)
"""Settings that count where the device is, and that other processes tell their clients of, or obey themselves."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """How a device is, and how busy."""

    name: str
    """Identifies it among all devices of a server."""
    node: str
    """The machine."""
    pid: int
    version: str
    """Of this service, where the device runs."""
    problem: str
    """The reason why it is not ready; empty if it is."""
    model: ModelCard | None
    """None before it is loaded."""
    limits: CacheLimits | None
    """None before the model is loaded."""
    waiting: int
    """Prompts and pictures in its queues."""
    images: int
    """Embeddings in its memory."""
    names_problem: str = ""
    """Why names that servers share cannot be reached; empty if they can."""
    keeps_files: bool = True
    """Whether other devices may have what it knows, from a folder or a bucket."""
    fronts: tuple[FrontState, ...] = ()
    """Servers that have asked lately how it is."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Those of OF_DEVICES, by their names."""


class Segmentation(Protocol):
    """The service. Each method but `work` ends within the deadline of a request and raises a ServiceError.

    `times` gets the stages of the request. `share` says whose turn in the queues it takes.
    """

    metrics: Metrics

    @property
    def settings(self) -> Settings:
        """Those of this process, but where there are devices elsewhere, OF_DEVICES as they have them."""

    @property
    def failure(self) -> Exception | None:
        """The reason why the service will never be ready, once it is known."""

    @property
    def cache_limits(self) -> CacheLimits:
        """Memory for embeddings. Exists once the service is ready."""

    @property
    def videos(self) -> VideoService:
        """Videos as sequences of frames."""

    @property
    def tracks(self) -> TrackService:
        """Objects that are followed through the frames of a video."""

    @property
    def names_problem(self) -> str:
        """Why names that servers share cannot be reached; empty if they can, or are not shared."""

    @property
    def is_loaded(self) -> bool:
        """Whether the model is loaded and warm."""

    @property
    def is_working(self) -> bool:
        """Whether a thread of this process still works, after `close` too."""

    def ready(self) -> Model:
        """Return the model. Raises NotReady and ShuttingDown."""

    async def start(self) -> None:
        """Become ready. Stores an error in `failure`."""

    def drain(self) -> None:
        """Reject new and waiting requests."""

    async def close(self) -> None:
        """Drain, and end what `start` began."""

    async def embed(
        self,
        data: bytes,
        *,
        tenant: str,
        image_id: str | None,
        replace: bool,
        times: StageTimes,
        share: str,
        stretch: Stretch = "range",
        needs_name: bool = True,
    ) -> Embedded:
        """Store the embedding of a picture under its id, or under the SHA-256 of its bytes."""

    async def recall(self, image_id: str, *, tenant: str, times: StageTimes, share: str) -> Embedded:
        """Return a stored picture, embedded again if only its upload was kept."""

    async def decode(
        self,
        image: str,
        requests: Sequence[PromptRequest],
        *,
        options: MaskOptions,
        tenant: str,
        times: StageTimes,
        share: str,
    ) -> Decoded:
        """Return the masks for every prompt on the image with that id."""

    async def segment(
        self,
        data: bytes,
        requests: Sequence[PromptRequest],
        *,
        options: MaskOptions,
        tenant: str,
        times: StageTimes,
        share: str,
        image_id: str | None = None,
        replace: bool = False,
        stretch: Stretch = "range",
    ) -> tuple[Embedded, Decoded]:
        """Return the embedded picture and its masks."""

    async def everything(
        self,
        picture: str | NewPicture,
        criteria: Criteria,
        *,
        tenant: str,
        times: StageTimes,
        share: str,
        report: Report,
    ) -> tuple[str, Everything]:
        """Return the id of a picture, which is stored or new, and every object on it, within its own deadline."""

    async def export(
        self,
        image_id: str,
        *,
        dtype: EmbeddingDtype,
        form: EmbeddingFormat,
        tenant: str,
        times: StageTimes,
        share: str,
    ) -> Exported:
        """Return a file with the feature maps of a picture."""

    async def describe(self, image_id: str, *, tenant: str) -> ImageRecord:
        """Return information about a stored picture."""

    async def describe_all(self, *, tenant: str, limit: int, after: str | None) -> list[ImageRecord]:
        """Return at most `limit` stored pictures that follow `after`, newest name first."""

    async def delete(self, image_id: str, *, tenant: str) -> None:
        """Delete an image everywhere, even while it is being embedded."""

    def keeps(self, embedding_bytes: int) -> int:
        """Return how many embeddings of this size are kept before the first one is dropped."""

    async def devices(self) -> list[DeviceState]:
        """Return the devices that do the work."""

    async def figures(self) -> bytes:
        """Return the metrics of this process, and of others that do the work, in Prometheus's text format."""

    async def work(self, job: Callable[[], T], *, share: str) -> T:
        """Run a job in a worker thread of this process, with the deadline of a request."""
