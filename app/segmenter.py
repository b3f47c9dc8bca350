"""What the service asks of a model; model/runner.py and the tests' fake both give it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from model.types import Embedding, Pixels, Prediction, Prompt


class Segmenter(Protocol):
    """A model on its device. Every method but `memory_bytes` runs on the one thread that owns the device."""

    @property
    def name(self) -> str:
        """The variant, as replies name it."""

    @property
    def fingerprint(self) -> str:
        """Model, weights, preprocessing and precision: part of every cache key."""

    @property
    def device_name(self) -> str:
        """Where it runs, as torch names it."""

    @property
    def dtype_name(self) -> str:
        """float32, bfloat16 or float16."""

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of low-resolution logits."""

    def memory_bytes(self) -> int | None:
        """Memory of the device that this process holds; None where that is the host's. Called from any thread."""

    @property
    def shares_host_memory(self) -> bool:
        """Whether embeddings on the device lie in host memory anyway: on a CPU."""

    @property
    def cpu_threads(self) -> int:
        """Threads that every batch keeps busy on the CPU: a core each; 0 on a GPU."""

    def adopt(self, embedding: Embedding) -> Embedding:
        """An embedding that comes from host memory or from a file, brought to the device."""

    def encode(self, images: Sequence[Pixels], *, between: Callable[[], None]) -> list[Embedding]:
        """One embedding for each picture, in order. Calls `between` now and then, which may decode."""

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        """One prediction for each job, in order, of any mix of pictures and prompts."""

    def warm_up(self) -> None:
        """Do what would make the first request slow."""
