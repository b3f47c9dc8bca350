"""What takes how long on a GPU, in this process: encode, decode, memory, and transformers beside us.

Knows nothing of HTTP.
"""

from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch
from safetensors.torch import load_file

from app.codecs.answers import MaskOptions, answer
from model.gpu.decoding import Shape
from model.gpu.device import Stream
from model.gpu.engine import GpuEngine
from model.runner import Sam2Runner
from model.types import Embedding, Prediction, Prompt
from tests.bench import machine
from tests.bench.gpu_session import SIDE, Session
from tests.bench.traffic import HEIGHT, WIDTH
from tests.golden.recipe import image

CLICK = Prompt(points=((500.0, 375.0),), labels=(1,))
PEER = "transformers"


def time_encode(session: Session, runner: Sam2Runner) -> None:
    """Pixels of 1800 x 1200 to embedding: one picture, and pictures a second in batches."""
    pictures = _pictures(session.batches[-1])
    for size in session.batches:
        seconds = session.times(partial(runner.encode, pictures[:size]), seconds=5)
        session.add_times("encode", f"{size} pictures at once", seconds, per_s=size / median(seconds))
    rates = [row.values["per_s"] for row in session.rows if row.section == "encode"]
    session.add("encode", "the best of these rates", per_s=max(rates))
    encoding = _engine(runner)._encoding
    for size, work in sorted(encoding._works.items()):
        found = _device_ms(session, encoding._stream, work, 30)
        session.add("encode", f"{size} pictures, the graph alone, device time", p50_ms=found)


def time_decode(session: Session, runner: Sam2Runner) -> None:
    """One click and a full batch: on the device's own clock, by the wall clock, and with the masks as RLE."""
    embeddings = _embeddings(runner, 2 if session.rehearse else 16)
    session.add("memory", "one cached picture", MiB=embeddings[0].nbytes / 2**20)
    one = [(embeddings[0], CLICK)]
    click = partial(runner.decode, one)
    decoding = _engine(runner)._decoding
    graph = decoding._works[Shape(1, 2, has_masks=False)]
    for case, work in (("its graph alone", graph), ("first copy to last", click)):
        found = _device_ms(session, decoding._stream, work, 300)
        session.add("decode", f"one click, {case}, device time", p50_ms=found)
    session.add_times("decode", "one click", session.times(click, seconds=5))
    session.add_times(
        "decode", "one click with RLE", session.times(partial(_answers, runner, one), seconds=5)
    )
    refinement = Prompt(
        points=CLICK.points * 2,
        labels=(1, 1),
        mask_logits=click()[0].logits[0].clip(-32, 32),
        multimask_output=False,
    )
    seconds = session.times(partial(runner.decode, [(embeddings[0], refinement)]), seconds=3)
    session.add_times("decode", "one refinement", seconds)
    count = session.most_prompts
    for case, of_picture in (("one picture", embeddings[:1]), ("several pictures", embeddings)):
        jobs = [(of_picture[i % len(of_picture)], CLICK) for i in range(count)]
        seconds = session.times(partial(runner.decode, jobs), seconds=5)
        session.add_times(
            "decode", f"a full batch of clicks on {case}", seconds, per_s=count / median(seconds)
        )
    boxes = [Prompt(box=(75.0 + 5 * i, 275.0, 1725.0, 850.0), multimask_output=False) for i in range(count)]
    seconds = session.times(partial(runner.decode, [(embeddings[0], box) for box in boxes]), seconds=5)
    session.add_times(
        "decode", "a full batch of boxes, one mask each", seconds, per_s=count / median(seconds)
    )


def time_memory(session: Session, runner: Sam2Runner) -> None:
    """Memory before and after many embeds, some of them kept and dropped later, with clicks on each."""
    pictures = _pictures(session.batches[-1])
    held: list[Embedding] = []

    def embed(count: int) -> None:
        for number in range(count):
            held.extend(runner.encode([pictures[number % len(pictures)]]))
            runner.decode([(held[-1], CLICK)])
            del held[:-4]

    embed(4)
    before = _taken_mib(session)
    count = 6 if session.rehearse else 500
    embed(count)
    after = _taken_mib(session)
    session.add(
        "memory", "many embeds", embeds=count, before_MiB=before, after_MiB=after, growth_MiB=after - before
    )
    if session.device == "cuda":
        session.add("memory", "the GPU's peak", MiB=torch.cuda.max_memory_reserved() / 2**20)


def time_transformers(session: Session, runner: Sam2Runner) -> None:
    """The same weights in transformers' Sam2Model, eager, in the same precision, where it is installed."""
    try:
        from tests.bench.peer_transformers import Transformers
    except ImportError as error:
        print(f"transformers: left out, {error}", flush=True)
        return
    if session.rehearse:  # transformers knows pictures of 1024 pixels only
        runner = session.runner(session.served_variant, checkpoint=session.served_checkpoint, dtype="float32")
    state = load_file(session.served_checkpoint)
    picture = _pictures(1)[0]
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
        runner.dtype_name
    ]
    peer = Transformers(
        state, [picture], name=PEER, dtype=dtype, variant=session.served_variant, device=session.device
    )
    (embedding,) = runner.encode([picture])
    peer.take([embedding.to_arrays(np.float32)])
    theirs, ours = peer.decode(0, [CLICK])[0], runner.decode([(embedding, CLICK)])[0]
    iou = np.mean(
        [
            ((a > 0) & (b > 0)).sum() / max(1, ((a > 0) | (b > 0)).sum())
            for a, b in zip(theirs.logits, ours.logits, strict=True)
        ]
    )
    # Ours are checked against float32 elsewhere; this is to see that both do the same work.
    session.add("agreement", "masks of transformers with ours", mIoU=float(iou))
    crowd = [CLICK] * session.most_prompts
    jobs = [(embedding, prompt) for prompt in crowd]
    pairs = {
        "one picture": (partial(peer.encode, picture), partial(runner.encode, [picture])),
        "one click": (partial(peer.decode, 0, [CLICK]), partial(runner.decode, jobs[:1])),
        "one click with RLE": (partial(peer.answer, 0, [CLICK]), partial(_answers, runner, jobs[:1])),
        "a full batch of clicks": (partial(peer.decode, 0, crowd), partial(runner.decode, jobs)),
    }
    for case, (their_call, our_call) in pairs.items():
        their_seconds, our_seconds = session.times(their_call, seconds=3), session.times(our_call, seconds=3)
        session.add_times("against transformers", case, their_seconds, side=PEER)
        ratio = {f"vs {PEER}": median(our_seconds) / median(their_seconds)}
        session.add_times("against transformers", case, our_seconds, side=SIDE, **ratio)


def _engine(runner: Sam2Runner) -> GpuEngine:
    assert runner._engine is not None
    return runner._engine


def _device_ms(session: Session, stream: Stream, work: Callable[[], object], count: int) -> float:
    """The median on the GPU's own clock, from the first to the last of what is launched on a stream."""
    if session.rehearse:
        return 1000 * median(session.times(work, seconds=0))
    times = []
    for _ in range(count):
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        with stream.current():
            begin.record()
            work()
            end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return median(times)


def _taken_mib(session: Session) -> float:
    """Memory that others cannot have: of the GPU, or of this process."""
    if session.device == "cuda":
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return (total - free) / 2**20
    return machine.resident_mib()


def _pictures(count: int) -> list[np.ndarray]:
    picture = image("bench 0", WIDTH, HEIGHT)
    return [np.roll(picture, 50 * i, axis=1) for i in range(count)]


def _embeddings(runner: Sam2Runner, count: int) -> list[Embedding]:
    return [runner.encode([picture])[0] for picture in _pictures(count)]


def _answers(runner: Sam2Runner, jobs: list[tuple[Embedding, Prompt]]) -> list:
    predictions: list[Prediction] = runner.decode(jobs)
    return [
        answer(p, height=e.height, width=e.width, options=MaskOptions(), logit_bytes=4)
        for (e, _), p in zip(jobs, predictions, strict=True)
    ]
