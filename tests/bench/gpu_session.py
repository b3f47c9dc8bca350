"""One run of the GPU's benchmark: its variant and device, the weights, the runners, and what is known so far.

Knows nothing of what is checked and timed.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from model.gpu.options import Compile, GpuOptions
from model.network.config import VARIANTS
from model.runner import Sam2Runner, load_runner
from tests.bench.discs import disc_state
from tests.bench.report import Row
from tests.bench.timing import Effort, summarise, take_turns
from tests.bench.weights import save_checkpoint
from tests.model.gpu.host_gpu import HostGpu

SIDE = "ours"
REHEARSAL = "sam2.1_hiera_rehearsal"
"""A variant of this process only: the tiny one on pictures of 256 pixels."""


class Wrong(Exception):
    """An answer is not what it must be; nothing is timed."""


class Session:
    """One run."""

    def __init__(self, *, rehearse: bool, folder: Path) -> None:
        self.rehearse = rehearse
        self.folder = folder
        self.device = "cpu" if rehearse else "cuda"
        self.variant = REHEARSAL if rehearse else "sam2.1_hiera_large"
        self.served_variant = "sam2.1_hiera_tiny" if rehearse else self.variant
        if rehearse:
            VARIANTS[REHEARSAL] = replace(VARIANTS["sam2.1_hiera_tiny"], image_size=256)
        self.most_prompts = 4 if rehearse else 64
        self.batches = (1, 2) if rehearse else (1, 2, 4, 8)
        """Pictures encoded at once; every size is captured."""
        self.rows: list[Row] = []

    def add(self, section: str, case: str, *, side: str = SIDE, **values: float) -> None:
        """Keep a row, and say it at once: a run that is cut off has then said what it knew."""
        self.rows.append(Row(section, case, side, values))
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"{section}: {case}: {side}: {shown}", flush=True)

    def add_times(
        self, section: str, case: str, seconds: list[float], *, side: str = SIDE, **more: float
    ) -> None:
        """A row of median and 95th percentile."""
        summary = summarise(seconds)
        values = {"n": summary.n, "p50_ms": summary.median_ms, "p95_ms": summary.p95_ms}
        self.add(section, case, side=side, **values, **more)

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

    @cached_property
    def checkpoint(self) -> Path:
        """The weights that are timed: they draw areas, and take as long as real ones."""
        return save_checkpoint(disc_state(self.variant), self.folder / "discs.safetensors")

    @cached_property
    def served_checkpoint(self) -> Path:
        """Weights for the server; in a rehearsal those of another variant, for a server knows no rehearsal."""
        if self.served_variant == self.variant:
            return self.checkpoint
        return save_checkpoint(disc_state(self.served_variant), self.folder / "served.safetensors")

    def runner(
        self,
        variant: str,
        *,
        checkpoint: Path,
        dtype: str,
        compilation: Compile = "auto",
        cache_mib: int = 64,
    ) -> Sam2Runner:
        """A runner on this run's device; in a rehearsal on the CPU in a GPU's clothes."""
        options = GpuOptions(
            cache_mib=cache_mib,
            batch_images=self.batches[-1],
            batch_prompts=self.most_prompts,
            compile=compilation,
        )
        runner = load_runner(
            variant, checkpoint=checkpoint, device=self.device, dtype=dtype, gpu_options=options
        )
        if not self.rehearse:
            return runner
        return Sam2Runner(
            runner.model, name=variant, weights_fingerprint="rehearsal", gpu=HostGpu(), gpu_options=options
        )
