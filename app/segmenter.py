"""The interface between the service and a model. model/runner.py and the tests' fake implement it."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias, TypeVar

from model.types import Embedding, Pixels, Prediction, Prompt
from model.video.values import Direction, Frame, ObjectMask, TrackPrompt

T = TypeVar("T")

TrackerKind: TypeAlias = Literal["memory", "mask_prompt"]
Corrections: TypeAlias = Literal["kept", "plain"]


class ObjectTracks(Protocol):
    """Objects that are followed through a video; see model/video/track.py. Everything runs on the device thread."""

    @property
    def nbytes(self) -> int:
        """Bytes of all that is remembered."""

    @property
    def objects(self) -> dict[int, dict[int, TrackPrompt]]:
        """Objects in the order added, each with its prompts by frame."""

    @property
    def unsettled(self) -> tuple[int, ...]:
        """Frames that have prompts since the last step: `settle` them before the next."""

    @property
    def first_frame(self) -> int | None:
        """Where a track starts by default; None if there is no object."""

    def prompt(
        self,
        frame: Frame,
        object_id: int,
        prompt: TrackPrompt,
        *,
        replaces: bool = False,
        anew: bool = False,
    ) -> list[ObjectMask]:
        """Say where an object is; returns all objects on that frame. Raises TrackError."""

    def settle(self, frame: Frame) -> None:
        """Make the memories of a frame's new prompts."""

    def step(self, frame: Frame, *, direction: Direction) -> list[ObjectMask]:
        """Follow all objects to a frame; returns them in the order added. Raises TrackError."""

    def remove_object(self, object_id: int) -> tuple[int, ...]:
        """Forget an object; returns the frames that had prompts of it."""

    def clear_prompts(self, frame: int, object_id: int) -> str | None:
        """Take an object's prompts on a frame back; returns a sentence if the object is dropped by it."""


class Tracking(Protocol):
    """How a model follows objects."""

    @property
    def kind(self) -> TrackerKind:
        """SAM 2's memory, or the previous mask as the next frame's prompt. For any thread."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of what is remembered of one object on one frame. For any thread."""

    @property
    def most_bytes(self) -> int | None:
        """Device memory that was left for what is remembered; None if the settings alone bound it."""

    def load(self) -> None:
        """Load now what the first `begin` would load. Raises CheckpointError."""

    def begin(
        self, *, num_frames: int, corrections: Corrections, between: Callable[[], None]
    ) -> ObjectTracks:
        """Begin a track. Raises CheckpointError where the weights cannot follow objects.

        Its work on the device calls `between` every few milliseconds, which may decode.
        """


class Model(Protocol):
    """What is said of a model, for any thread, and also where the model itself is in another process."""

    @property
    def name(self) -> str:
        """The variant, as named in replies; random weights are said."""

    @property
    def variant(self) -> str:
        """Which of the networks it is."""

    @property
    def fingerprint(self) -> str:
        """Identifies model, weights, preprocessing and precision. It is part of every cache key."""

    @property
    def device_name(self) -> str:
        """The device it runs on, as torch names it."""

    @property
    def dtype_name(self) -> str:
        """float32, bfloat16 or float16."""

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of the low-resolution logits."""


class Segmenter(Model, Protocol):
    """A model on its device. Every method except `memory_bytes` runs on the one thread that owns the device."""

    def memory_bytes(self) -> int | None:
        """Device memory that this process holds; None if it is the host's memory. May be called from any thread."""

    @property
    def cache_bytes(self) -> int | None:
        """Device memory for embeddings, where it is allocated at the start; None if it is the host's memory."""

    @property
    def shares_host_memory(self) -> bool:
        """Whether embeddings on the device lie in host memory, as on a CPU."""

    @property
    def cpu_threads(self) -> int:
        """Threads that every batch keeps busy on the CPU, each using one core; 0 on a GPU."""

    def adopt(self, embedding: Embedding) -> Embedding:
        """Bring an embedding from host memory or from a file to the device."""

    def encode(self, images: Sequence[Pixels], *, between: Callable[[], None]) -> list[Embedding]:
        """Return one embedding per picture, in order. Calls `between` every few milliseconds, which may decode."""

    def expect(self, images: Sequence[Pixels]) -> None:
        """Prepare for pictures that will probably be encoded next. `between` calls this during another encode."""

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        """Return one prediction for each job, in order. Jobs may mix pictures and prompts."""

    def search(
        self,
        jobs: Sequence[tuple[Embedding, Prompt]],
        finish: Callable[[int, Prediction], T],
        *,
        between: Callable[[], None],
    ) -> list[T]:
        """Decode, and return what `finish` makes of each job's place and prediction, in order.

        `finish` may run on any thread. `between` is called on the device thread alone, and may decode: every few
        milliseconds between the steps of a search's prompts on a CPU, else before each forward.
        """

    @property
    def tracking(self) -> Tracking:
        """How it follows objects through videos."""

    def warm_up(self) -> None:
        """Do the work that would make the first request slow."""
