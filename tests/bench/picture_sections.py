"""Section masks: logits to RLE at the size of a picture.

Does not know about prompts and HTTP.
"""

import math
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from app.codecs.rle import encode_counts
from model.masks.runs import runs
from tests.bench.report import Row, timed_rows
from tests.bench.sides import coco_rles
from tests.bench.timing import take_turns
from tests.bench.workbench import Workbench

SIZES = {"1 MP": (820, 1220), "8 MP": (2310, 3464), "24 MP": (4000, 6000)}
"""Height and width, in the ratio 2:3."""


def masks(bench: Workbench) -> list[Row]:
    """Time one map of logits to RLE, for areas with an outline, and for noise, which no trained model draws."""
    rows = []
    for size, (height, width) in SIZES.items():
        for kind, logits in (("areas", area_logits()), ("noise", noise_logits())):
            sides = {
                "ours": partial(_ours, logits, height=height, width=width),
                "interpolate + pycocotools": partial(_theirs, logits, height=height, width=width),
            }
            if len({call() for call in sides.values()}) > 1:
                _check_close(logits, height=height, width=width)
            times = take_turns(sides, bench.effort(8, quick_seconds=1, least=10))
            rows += timed_rows("masks", f"{size}, {kind}", times)
    return rows


def area_logits() -> npt.NDArray[np.float32]:
    """Return (256, 256) logits of a few rounded areas: low-frequency waves, as steep as a trained model's."""
    y, x = np.mgrid[0:256, 0:256] / 256
    waves = np.sin(2 * math.pi * 2 * x + 1) * np.cos(2 * math.pi * 1.5 * y) + 0.3 * np.sin(
        2 * math.pi * (5 * x + 3 * y)
    )
    return (12 * (waves - 0.4)).astype(np.float32)


def noise_logits() -> npt.NDArray[np.float32]:
    """Return (256, 256) independent random logits."""
    return np.random.Generator(np.random.Philox(key=1)).standard_normal((256, 256), dtype=np.float32)


def _ours(logits: npt.NDArray[np.float32], *, height: int, width: int) -> str:
    return encode_counts(runs(logits, height=height, width=width).lengths)


def _theirs(logits: npt.NDArray[np.float32], *, height: int, width: int) -> str:
    return coco_rles(torch.from_numpy(logits)[None], height=height, width=width)[0]


def _check_close(logits: npt.NDArray[np.float32], *, height: int, width: int) -> None:
    """Raise AssertionError if more than a few pixels differ. Rounding explains a few; see model/masks/runs.py."""
    x = torch.from_numpy(logits)[None, None]
    full = torch.nn.functional.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)[
        0, 0
    ]
    differing = int((runs(logits, height=height, width=width).to_array() != (full > 0).numpy()).sum())
    if differing > 1e-6 * height * width:
        raise AssertionError(f"{differing} of {height * width} pixels differ from interpolate and threshold")
