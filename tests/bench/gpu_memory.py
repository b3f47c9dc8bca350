"""What a GPU's memory and its energy go to.

Does not know about time.
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch

from model.gpu.options import GpuOptions
from model.runner import load_runner
from model.types import Embedding
from tests.bench import machine
from tests.bench.gpu_session import CLICK, Session, embeddings, large_picture, pictures

SETTLED = 50
"""Embeds before the first look: kernels are loaded when they are first met, and take memory too."""


def add_memory(session: Session, when: str) -> None:
    """A row of what is taken now: by torch, by everybody, and pinned on the host."""
    values = {"taken_MiB": _taken_mib(session)}
    if session.device == "cuda":
        values["allocated_MiB"] = torch.cuda.memory_allocated() / 2**20
        values["reserved_MiB"] = torch.cuda.memory_reserved() / 2**20
        pinned = torch.cuda.host_memory_stats().get("allocated_bytes.current")
        if pinned is not None:
            values["pinned_MiB"] = pinned / 2**20
    session.add("memory", when, **values)


def time_memory(session: Session) -> None:
    """Memory before and after many embeds, of a very large picture, and an arena that cannot fit."""
    runner = session.timed
    crowd = pictures(session.batches[-1])
    held: list[Embedding] = []

    def embed(count: int) -> None:
        for number in range(count):
            held.extend(runner.encode([crowd[number % len(crowd)]]))
            runner.decode([(held[-1], CLICK)])
            del held[:-4]

    embed(2 if session.rehearse else SETTLED)
    before = _taken_mib(session)
    count = 6 if session.rehearse else 500
    embed(count)
    after = _taken_mib(session)
    session.add(
        "memory", "many embeds", embeds=count, before_MiB=before, after_MiB=after, growth_MiB=after - before
    )
    add_memory(session, "after many embeds")
    with session.part("a picture of 100 MP"):
        _add_peak(session, partial(runner.encode, [large_picture(4 if session.rehearse else 100)]))
    if session.device == "cuda":
        session.add("memory", "the GPU's peak", MiB=torch.cuda.max_memory_reserved() / 2**20)
        with session.part("an arena larger than the GPU"):
            _ask_for_too_much(session)


def _add_peak(session: Session, encode: Callable[[], object]) -> None:
    if session.device != "cuda":
        encode()
        return
    session.wait()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    encode()
    session.wait()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    session.add("memory", "a picture of 100 MP, on top of all else", MiB=peak)


def _ask_for_too_much(session: Session) -> None:
    """What the owner of a GPU reads whose SAM2_DEVICE_CACHE_MIB is twice the memory that there is."""
    total_mib = torch.cuda.mem_get_info()[1] // 2**20
    try:
        runner = load_runner(
            session.variant,
            checkpoint=session.checkpoint,
            device=session.device,
            dtype="auto",
            gpu_options=GpuOptions(cache_mib=2 * total_mib, batch_images=1, batch_prompts=1),
        )
    except ValueError as error:
        session.results.note("said", f"an arena larger than the GPU: {error}")
    else:
        del runner
        session.results.note("said", "an arena larger than the GPU: made smaller, and the model loads")


def measure_energy(session: Session) -> None:
    """Joule for a picture and for a thousand clicks, all that the GPU takes included."""
    if session.device != "cuda":
        print("energy: left out, no GPU", flush=True)
        return
    try:
        import pynvml
    except ImportError as error:
        session.results.note("said", f"energy: left out, {error}")
        return
    pynvml.nvmlInit()
    name = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    handle = pynvml.nvmlDeviceGetHandleByUUID(name)
    runner = session.timed
    crowd, most = pictures(session.batches[-1]), session.most_prompts
    jobs = [(embedding, CLICK) for embedding in embeddings(runner, 1) * most]
    cases: tuple[tuple[str, Callable[[], object], float], ...] = (
        ("a picture, in full batches", partial(runner.encode, crowd), len(crowd)),
        ("1000 clicks, in full batches", partial(runner.decode, jobs), most / 1000),
    )
    for case, call, share in cases:
        call()
        session.wait()
        began, started, calls = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), perf_counter(), 0
        while perf_counter() - started < 2:
            call()
            calls += 1
        session.wait()
        seconds = perf_counter() - started
        joule = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - began) / 1000
        session.add("energy", case, J=joule / calls / share, W=joule / seconds)


def _taken_mib(session: Session) -> float:
    """Memory that others cannot have: of the GPU, or of this process."""
    if session.device == "cuda":
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return (total - free) / 2**20
    return machine.resident_mib()
