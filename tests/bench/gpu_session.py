"""One run of the GPU's benchmark: its variant and device, the weights, the runners.

Does not know what is checked and timed.
"""

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from model.checkpoints.download import BUILTIN_PATH
from model.gpu.cuda import Cuda
from model.gpu.options import Compile, GpuOptions
from model.network.config import BUILTIN, VARIANTS
from model.runner import Sam2Runner, load_runner
from model.types import Embedding, Pixels, Prediction, Prompt
from tests.bench.discs import disc_state
from tests.bench.gpu_clock import Clocked
from tests.bench.gpu_results import Results
from tests.bench.timing import Effort, summarise, take_turns
from tests.bench.traffic import HEIGHT, WIDTH
from tests.bench.weights import save_checkpoint
from tests.golden.recipe import image
from tests.model.gpu.host_gpu import HostGpu

SIDE = "ours"
REHEARSAL = "sam2.1_hiera_rehearsal"
"""A variant of this process only: the tiny one on pictures of 256 pixels."""

FRAMES = 8
"""Of a traceback, the innermost."""

CLICK = Prompt(points=((500.0, 375.0),), labels=(1,))


class Session:
    """One run. `folder` is for what nobody needs afterwards, the results' folder for the rest."""

    def __init__(
        self, results: Results, *, rehearse: bool, folder: Path, compilation: Compile = "auto"
    ) -> None:
        self.results = results
        self.rehearse = rehearse
        self.folder = folder
        self.compilation = compilation
        self.device = "cpu" if rehearse else "cuda"
        self.variant = REHEARSAL if rehearse else "sam2.1_hiera_large"
        self.served_variant = BUILTIN if rehearse else self.variant
        if rehearse:
            VARIANTS[REHEARSAL] = replace(VARIANTS["sam2.1_hiera_tiny"], image_size=256)
        self.most_prompts = 4 if rehearse else 64
        self.batches = (1, 2) if rehearse else (1, 2, 4, 8)
        """Pictures encoded at once; every size is captured."""
        self.clock: Clocked | None = None
        self._runner: Sam2Runner | None = None

    def add(self, section: str, case: str, *, side: str = SIDE, **values: float) -> None:
        """Keep a row, say it and write it at once: a run that is cut off leaves what it knew."""
        self.results.add(section, case, side, values)

    def add_times(
        self, section: str, case: str, seconds: list[float], *, side: str = SIDE, **more: float
    ) -> None:
        """A row of median and 95th percentile."""
        summary = summarise(seconds)
        values = {"n": summary.n, "p50_ms": summary.median_ms, "p95_ms": summary.p95_ms}
        self.add(section, case, side=side, **values, **more)

    def wrong(self, text: str) -> None:
        """An answer is not what it must be. The run goes on, and ends with 1."""
        self.results.note("wrong", text)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Where the block fails, note it, and go on behind it."""
        try:
            yield
        except Exception:
            self.results.note("failed", f"{name}: {traceback.format_exc(limit=-FRAMES)}")

    def times(self, call: Callable[[], object], *, seconds: float) -> list[float]:
        """Seconds by the wall clock, the device's work included."""

        def whole() -> None:
            call()
            self.wait()

        effort = Effort(0.0, least=2) if self.rehearse else Effort(seconds, least=10, most=1000, warm_up=3)
        return take_turns({SIDE: whole}, effort)[SIDE]

    def wait(self) -> None:
        """Let the device end all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def tidy(self) -> None:
        """Give memory back that nobody holds; a device that is lost does not mind."""
        gc.collect()
        if self.device == "cuda":
            with suppress(RuntimeError):
                torch.cuda.empty_cache()

    @cached_property
    def checkpoint(self) -> Path:
        """The weights that are timed: they draw areas, and take as long as real ones."""
        return save_checkpoint(disc_state(self.variant), self.folder / "discs.safetensors")

    @property
    def served_checkpoint(self) -> Path:
        """Weights for the server; in a rehearsal those of a small variant, for a server knows no rehearsal."""
        return BUILTIN_PATH if self.served_variant == BUILTIN else self.checkpoint

    @property
    def timed(self) -> Sam2Runner:
        """The runner that is timed, ready for it; loaded anew where another step has dropped it."""
        if self._runner is None:
            loaded = self.runner(
                self.variant, checkpoint=self.checkpoint, dtype="auto", compilation="off", cache_mib=1
            )
            gpu = HostGpu() if self.rehearse else Cuda(loaded.device)
            self.clock = Clocked(gpu)
            self._runner = Sam2Runner(
                loaded.model,
                name=self.variant,
                weights_fingerprint="timed",
                gpu=self.clock,
                gpu_options=self.options(compilation=self.compilation, cache_mib=1024),
            )
            del loaded
            self._runner.warm_up()
            self.wait()
        return self._runner

    def drop_timed(self) -> None:
        """Give its memory back; the next step that needs it waits while it loads."""
        self._runner = self.clock = None
        self.tidy()

    def make_room(self, mib: int) -> None:
        """Drop the runner that is timed where others would not find so much memory."""
        if self.device == "cuda" and torch.cuda.mem_get_info()[0] < mib * 2**20:
            self.drop_timed()

    def options(self, *, compilation: Compile = "auto", cache_mib: int = 64) -> GpuOptions:
        """Of the sizes of this run."""
        return GpuOptions(
            cache_mib=cache_mib,
            batch_images=self.batches[-1],
            batch_prompts=self.most_prompts,
            compile=compilation,
        )

    def runner(
        self,
        variant: str,
        *,
        checkpoint: Path | None,
        dtype: str,
        compilation: Compile = "auto",
        cache_mib: int = 64,
    ) -> Sam2Runner:
        """A runner on this run's device, not warmed up; in a rehearsal on the CPU in a GPU's clothes."""
        options = self.options(compilation=compilation, cache_mib=cache_mib)
        runner = load_runner(
            variant, checkpoint=checkpoint, device=self.device, dtype=dtype, gpu_options=options
        )
        if not self.rehearse:
            return runner
        for parameter in runner.model.image_encoder.parameters():
            parameter.data = parameter.data.to(runner.dtype)  # on a CPU the built-in model's stay in float32
        return Sam2Runner(
            runner.model, name=variant, weights_fingerprint="rehearsal", gpu=HostGpu(), gpu_options=options
        )


def pictures(count: int) -> list[Pixels]:
    """Pictures of 1800 x 1200: one, moved sideways."""
    picture = image("bench 0", WIDTH, HEIGHT)
    return [np.roll(picture, 50 * i, axis=1) for i in range(count)]


def large_picture(megapixels: int) -> Pixels:
    """A picture 4 by 3 of so many megapixels: the one of 1800 x 1200 in rows and columns."""
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = width * 3 // 4
    tiles = np.tile(image("bench 0", WIDTH, HEIGHT), (height // HEIGHT + 1, width // WIDTH + 1, 1))
    return np.ascontiguousarray(tiles[:height, :width])


def embeddings(runner: Sam2Runner, count: int) -> list[Embedding]:
    """Of so many pictures, one by one."""
    return [runner.encode([picture])[0] for picture in pictures(count)]


def decoded(runner: Sam2Runner, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Prediction]:
    """Answers to prompts on one picture, in one call."""
    return runner.decode([(embedding, prompt) for prompt in prompts])
