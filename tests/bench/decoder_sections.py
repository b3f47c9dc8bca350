"""Sections click, boxes and crowd: every side decodes embeddings to masks.

Does not know about HTTP.
"""

from functools import partial

import numpy as np

from model.types import Prompt
from tests.bench.agreement import check
from tests.bench.report import HALF, Row, timed_rows
from tests.bench.timing import Effort, take_turns
from tests.bench.workbench import CLICK, CROWD, HEIGHT, WIDTH, Workbench


def click(bench: Workbench) -> list[Row]:
    """Time one click with three masks on an 1800 x 1200 picture: the decoder alone, and up to RLE."""
    rows = check(bench.sides, [CLICK], case="one click", size=(HEIGHT, WIDTH), half=HALF)
    effort = bench.effort(30, quick_seconds=5)
    alone = {side.name: partial(side.decode, 0, [CLICK]) for side in bench.sides}
    rows += timed_rows("click", "decoder alone", take_turns(alone, effort))
    with_rle = {side.name: partial(side.answer, 0, [CLICK]) for side in bench.sides}
    return rows + timed_rows("click", "with RLE", take_turns(with_rle, effort))


def boxes(bench: Workbench) -> list[Row]:
    """Time 16 and 64 boxes on one picture, with the best mask of each, up to RLE."""
    rows = check(bench.sides, some_boxes(16), case="16 boxes", size=(HEIGHT, WIDTH), half=HALF)
    for count in (16, 64):
        prompts = some_boxes(count)
        calls = {side.name: partial(side.answer, 0, prompts) for side in bench.sides}
        if count == 64 and bench.quick:
            effort = Effort(0.0, least=1, warm_up=0)
        else:
            effort = bench.effort(60, quick_seconds=6, least=3)
        rows += timed_rows("boxes", f"{count} boxes", take_turns(calls, effort))
    return rows


def crowd(bench: Workbench) -> list[Row]:
    """Time one click on each of 16 pictures, up to RLE: ours in one call, the peers one by one."""
    prompts = [Prompt(points=((100.0 + 97 * i, 90.0 + 61 * i),), labels=(1,)) for i in range(CROWD)]
    calls = {side.name: partial(side.crowd, prompts) for side in bench.sides}
    times = take_turns(calls, bench.effort(40, quick_seconds=5))
    return timed_rows("crowd", f"{CROWD} clicks on {CROWD} pictures", times)


def some_boxes(count: int) -> list[Prompt]:
    """Return boxes of many sizes all over the picture, one mask each."""
    generator = np.random.Generator(np.random.Philox(key=count))
    centres = generator.uniform((200, 200), (WIDTH - 200, HEIGHT - 200), (count, 2))
    halves = generator.uniform(40, 190, (count, 2))
    corners = np.concatenate([centres - halves, centres + halves], axis=1).tolist()
    return [Prompt(box=(x0, y0, x1, y1), multimask_output=False) for x0, y0, x1, y1 in corners]
