"""Where a GPU's time goes: the card's state, attention by backend, tables of kernels, compiled kernels.

Does not know about answers.
"""

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from model.runner import Sam2Runner
from tests.bench.gpu_clock import replayed_ms
from tests.bench.gpu_session import CLICK, Session, embeddings, pictures

PROBES = Path(__file__).parent / "probes"

CARD = (
    "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu",
    "pcie.link.gen.current", "pcie.link.width.current", "memory.total", "ecc.mode.current", "mig.mode.current",
)  # fmt: skip
"""What nvidia-smi is asked for."""

ROWS = 25
"""Kernels in a table, those that take longest."""

BACKENDS = {
    "as torch chooses": (),
    "cuDNN": (SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH),
    "flash": (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH),
    "memory-efficient": (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
}


def note_facts(session: Session) -> None:
    """Attention's order of backends, cuDNN, and what nvidia-smi says of the card, for the head of the report."""
    machine = session.results.machine
    with session.part("torch"):
        machine["SDPA order"] = str(torch._C._get_sdp_priority_order())
        machine["cuDNN"] = str(torch.backends.cudnn.version())
    if session.device != "cuda":
        return
    with session.part("compute capability"):
        machine["compute capability"] = "{}.{}".format(*torch.cuda.get_device_capability())
    with session.part("nvidia-smi"):
        for field in CARD:  # one by one: a name that this driver does not know spoils a list
            ask = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0"]
            done = subprocess.run(ask, capture_output=True, text=True, timeout=10)
            machine[field] = done.stdout.strip() if done.returncode == 0 else "not said"
    session.results.write()


def probe(session: Session, name: str, *arguments: str) -> None:
    """Run one of tests/bench/probes as a process of its own; what it prints is kept as a file."""
    command = [sys.executable, str(PROBES / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    session.results.keep(f"{' '.join((name, *arguments))}.txt".replace(" --", " ").replace(" ", "-"), said)
    session.results.note("said", said[-4000:])
    if done.returncode:
        session.wrong(f"{name} {' '.join(arguments)} ended with {done.returncode}")


def probe_attention(session: Session) -> None:
    """Every shape of attention by every backend; then the whole encoder by each."""
    with session.part("shapes"):
        probe(session, "sdpa_probe", *(["--rehearse"] if session.rehearse else []))
    for size in (1, session.batches[-1]):
        encode = _encoder(session.timed, size)
        for name, backends in BACKENDS.items():
            if session.rehearse and backends:
                continue
            with session.part(f"{name}, {size}"), sdpa_kernel([*backends]) if backends else nullcontext():
                found = replayed_ms(encode, device=session.device, count=2 if session.rehearse else 20)
                session.add("attention", f"the encoder for {size} pictures, {name}", device_ms=found)


def profile_kernels(session: Session) -> None:
    """Tables of kernels of an encode of one picture and of many, of a click and of many."""
    runner, most = session.timed, session.most_prompts
    crowd = pictures(session.batches[-1])
    jobs = [(embedding, CLICK) for embedding in embeddings(runner, 1) * most]
    cases: dict[str, Callable[[], object]] = {
        "encode-1": partial(runner.encode, crowd[:1]),
        f"encode-{len(crowd)}": partial(runner.encode, crowd),
        "decode-1": partial(runner.decode, jobs[:1]),
        f"decode-{most}": partial(runner.decode, jobs),
    }
    for name, call in cases.items():
        with session.part(name):
            _profile(session, name, call)


def _profile(session: Session, name: str, call: Callable[[], object]) -> None:
    call()
    session.wait()
    activities, order = [ProfilerActivity.CPU], "self_cpu_time_total"
    if session.device == "cuda":
        activities, order = [*activities, ProfilerActivity.CUDA], "self_cuda_time_total"
    with profile(activities=activities) as found:
        call()
        session.wait()
    table = found.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=90)
    session.results.keep(f"profile-{name}.txt", table)
    spans = [event.time_range for event in found.events() if event.device_type == DeviceType.CUDA]
    if spans:
        busy = sum(span.end - span.start for span in spans) / 1000
        whole = (max(span.end for span in spans) - min(span.start for span in spans)) / 1000
        session.add("profile", name, kernels_and_copies=len(spans), busy_ms=busy, first_to_last_ms=whole)


def time_compiled(session: Session) -> None:
    """The encoder alone, compiled for one picture and for a full batch, beside as it is; what compiling takes."""
    import torch._dynamo

    for size in (1, session.batches[-1]):
        with session.part(f"{size} pictures"):
            plain = _encoder(session.timed, size)
            torch._dynamo.reset()
            if session.rehearse:  # traced only: a compiler is not what a rehearsal is for
                fast = torch.compile(plain, fullgraph=True, dynamic=False, backend="eager")
            else:
                fast = torch.compile(plain, fullgraph=True, dynamic=False, mode="max-autotune-no-cudagraphs")
            started = perf_counter()
            with torch.inference_mode():
                fast()
            session.wait()
            compile_s = perf_counter() - started
            count = 2 if session.rehearse else 30
            before = replayed_ms(plain, device=session.device, count=count)
            after = replayed_ms(fast, device=session.device, count=count)
            values = {"compile_s": compile_s, "device_ms": after, "vs as it is": after / before}
            session.add("compiled", f"the encoder for {size} pictures", **values)


def _encoder(runner: Sam2Runner, size: int) -> Callable[[], object]:
    """The image encoder on noise that stays where it is, its results left where they are."""
    parameter, side = next(runner.model.image_encoder.parameters()), runner.config.image_size
    noise = torch.randn(size, 3, side, side, device=parameter.device, dtype=parameter.dtype)
    images = noise.contiguous(memory_format=torch.channels_last)

    def encode() -> object:
        with torch.inference_mode():
            return runner.model.encode(images)

    return encode
