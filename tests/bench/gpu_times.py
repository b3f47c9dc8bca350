"""What takes how long on a GPU, in this process: loading, encode, decode, other variants, JPEG files.

Does not know about HTTP.
"""

import io
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from time import perf_counter

from PIL import Image

from app.codecs.answers import MaskAnswer, MaskOptions, answer
from app.codecs.images import decode_image
from model.runner import Sam2Runner
from model.types import Embedding, Prompt
from tests.bench import machine
from tests.bench.gpu_clock import Clocked
from tests.bench.gpu_memory import add_memory
from tests.bench.gpu_session import CLICK, Session, embeddings, large_picture, pictures

SMALL_VARIANTS = ("sam2.1_hiera_tiny", "sam2.1_hiera_base_plus")


def time_load(session: Session) -> None:
    """Weights, arena, warm-up, with what each capture took; the log of it all goes to warm-up.txt."""
    _ = session.checkpoint  # made here, so that the clock does not count it
    add_memory(session, "before loading")
    started = perf_counter()
    with _records_of("model") as records:
        _ = session.timed  # loaded and warmed up here
        session.add("server", "load and warm-up in process", s=perf_counter() - started)
    add_memory(session, "after warm-up")
    lines = [f"{record.created:.3f} {record.getMessage()}" for record in records]
    session.results.keep("warm-up.txt", "\n".join([*lines, ""]))
    for what in ("encoder", "decoder"):
        found = [re.search(rf"Captured the {what} .* in (\d+) ms", line) for line in lines]
        times = [int(match[1]) for match in found if match]
        if times:
            values = {"n": len(times), "ms": sum(times), "longest_ms": max(times)}
            session.add("server", f"captures of the {what} in the warm-up", **values)


def time_encode(session: Session) -> None:
    """Pixels of 1800 x 1200 to embedding: one picture, and pictures a second in batches; then larger ones."""
    runner, rates = session.timed, []
    crowd = pictures(session.batches[-1])
    for size in session.batches:
        seconds = session.times(partial(runner.encode, crowd[:size]), seconds=4)
        rates.append(size / median(seconds))
        session.add_times("encode", f"{size} pictures at once", seconds, per_s=rates[-1])
    session.add("encode", "the best of these rates", per_s=max(rates))
    for megapixels in (12, 24):  # as telephones send them
        seconds = session.times(partial(runner.encode, [large_picture(megapixels)]), seconds=1.5)
        session.add_times("encode", f"1 picture of {megapixels} MP", seconds)


def time_decode(session: Session) -> None:
    """One click and a full batch: on the device's own clock, by the wall clock, and with the masks as RLE."""
    runner = session.timed
    held = embeddings(runner, 2 if session.rehearse else 16)
    session.add("memory", "one cached picture", MiB=held[0].nbytes / 2**20)
    one = [(held[0], CLICK)]
    click = partial(runner.decode, one)
    found = _clock(session).median_ms(click, count=2 if session.rehearse else 200)
    session.add("decode", "one click, first copy to last, device time", p50_ms=found)
    session.add_times("decode", "one click", session.times(click, seconds=3))
    session.add_times("decode", "one click with RLE", session.times(partial(answers, runner, one), seconds=3))
    mask = click()[0].logits[0].clip(-32, 32)
    refinement = replace(
        CLICK, points=CLICK.points * 2, labels=(1, 1), mask_logits=mask, multimask_output=False
    )
    seconds = session.times(partial(runner.decode, [(held[0], refinement)]), seconds=2)
    session.add_times("decode", "one refinement", seconds)
    count = session.most_prompts
    for case, of_picture in (("one picture", held[:1]), ("several pictures", held)):
        jobs = [(of_picture[i % len(of_picture)], CLICK) for i in range(count)]
        _add_rate(session, runner, f"a full batch of clicks on {case}", jobs)
    boxes = [Prompt(box=(75.0 + 5 * i, 275.0, 1725.0, 850.0), multimask_output=False) for i in range(count)]
    jobs = [(held[0], box) for box in boxes]
    _add_rate(session, runner, "a full batch of boxes, one mask each", jobs)


def time_decode_curve(session: Session) -> None:
    """Prompts a second by the size of the batch, refinements, and prompts longer than any that is prepared."""
    runner = session.timed
    held = embeddings(runner, 2 if session.rehearse else 16)
    mask = runner.decode([(held[0], CLICK)])[0].logits[0].clip(-32, 32)
    size = 1
    while size <= session.most_prompts:
        jobs = [(held[i % len(held)], CLICK) for i in range(size)]
        _add_rate(session, runner, f"{size} clicks", jobs, seconds=1)
        size *= 2
    refinement = replace(CLICK, mask_logits=mask, multimask_output=False)
    for size in (1, min(16, session.most_prompts)):
        jobs = [(held[i % len(held)], refinement) for i in range(size)]
        _add_rate(session, runner, f"{size} refinements with a mask", jobs, seconds=1)
    points = tuple((100.0 + 70 * i, 600.0) for i in range(17))
    for clicks in (11, 17):
        long = Prompt(points=points[:clicks], labels=(1,) * clicks)
        for time in ("first", "second"):
            started = perf_counter()
            runner.decode([(held[0], long)])
            milliseconds = 1000 * (perf_counter() - started)
            session.add("decode curve", f"{clicks} clicks at once, the {time} time", ms=milliseconds)


def time_variants(session: Session) -> None:
    """Encode of the smaller variants, with random weights."""
    for variant in (session.variant,) if session.rehearse else SMALL_VARIANTS:
        with session.part(variant):
            runner = session.runner(variant, checkpoint=None, dtype="auto")
            runner.warm_up()
            for size in (1, session.batches[-1]):
                seconds = session.times(partial(runner.encode, pictures(size)), seconds=2)
                case = f"{variant}, {size} pictures at once"
                session.add_times("variants", case, seconds, per_s=size / median(seconds))
            del runner
            session.tidy()


def time_jpegs(session: Session) -> None:
    """JPEG files to pixels by all cores, as the server decodes them: how many pictures a second it can feed."""
    workers = 2 if session.rehearse else machine.num_cores()
    for megapixels, count in ((2, 8 * workers), (12, 3 * workers)):
        file = io.BytesIO()
        Image.fromarray(large_picture(megapixels)).save(file, format="JPEG", quality=85)
        files = [file.getvalue()] * (workers if session.rehearse else count)
        with ThreadPoolExecutor(workers) as pool:
            started = perf_counter()
            list(pool.map(_decoded_size, files))
            seconds = perf_counter() - started
        values = {"per_s": len(files) / seconds, "workers": workers, "MB": file.tell() / 1e6}
        session.add("jpeg", f"files of {megapixels} MP to pixels", **values)


def _decoded_size(file: bytes) -> int:
    return decode_image(file, max_pixels=100_000_000).size


def answers(runner: Sam2Runner, jobs: list[tuple[Embedding, Prompt]]) -> list[list[MaskAnswer]]:
    """Decode, up to what the service replies: RLE, area, box and stability of each mask."""
    predictions = runner.decode(jobs)
    return [
        answer(p, height=e.height, width=e.width, options=MaskOptions(), logit_bytes=4)
        for (e, _), p in zip(jobs, predictions, strict=True)
    ]


def _add_rate(
    session: Session,
    runner: Sam2Runner,
    case: str,
    jobs: list[tuple[Embedding, Prompt]],
    *,
    seconds: float = 4,
) -> None:
    """Wall clock and device time of one decode of these jobs."""
    call = partial(runner.decode, jobs)
    found = session.times(call, seconds=seconds)
    section = "decode" if seconds > 1 else "decode curve"
    device_ms = _clock(session).median_ms(call, count=2 if session.rehearse else 30)
    session.add_times(section, case, found, per_s=len(jobs) / median(found), device_ms=device_ms)


def _clock(session: Session) -> Clocked:
    assert session.clock is not None
    return session.clock


@contextmanager
def _records_of(name: str) -> Iterator[list[logging.LogRecord]]:
    """All that is logged under a name in the block, debugging too."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
