"""The interface between the service and a model. model/runner.py and the tests' fake implement it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from model.types import Embedding, Pixels, Prediction, Prompt


class Segmenter(Protocol):
    """A model on its device. Every method except `memory_bytes` runs on the one thread that owns the device."""

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

    def warm_up(self) -> None:
        """Do the work that would make the first request slow."""
