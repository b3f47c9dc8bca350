"""Small holes and specks in logits, against Meta's post-processing written for the eye; and that the input stays.

What is compared with is sam2/utils/transforms.py, postprocess_masks, and csrc/connected_components.cu of
facebookresearch/sam2, told anew: areas are 8-connected, at most so large, cut from the logits that came in, holes
first and specks over them; then bilinear to the picture's size.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.masks.cleaning import clean
from model.masks.runs import runs
from model.types import Logits

BOTH_OR_ONE = [(0, 0), (3, 0), (0, 3), (2.5, 7), (7, 2.5), (400, 0), (0, 400), (400, 400)]


def areas(mask: np.ndarray) -> np.ndarray:
    """For each pixel of a mask the size of its 8-connected area; 0 elsewhere."""
    sizes = np.zeros(mask.shape, int)
    seen = ~mask
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        area, waiting = [], [start]
        seen[start] = True
        while waiting:
            y, x = waiting.pop()
            area.append((y, x))
            for at in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                if 0 <= at[0] < mask.shape[0] and 0 <= at[1] < mask.shape[1] and not seen[at]:
                    seen[at] = True
                    waiting.append(at)
        for at in area:
            sizes[at] = len(area)
    return sizes


def cleaned_as_meta_does(logits: Logits, holes: float, sprinkles: float) -> Logits:
    wanted = logits.copy()
    background, inside = areas(logits <= 0), areas(logits > 0)
    if holes > 0:
        wanted[(background > 0) & (background <= holes)] = 10
    if sprinkles > 0:
        wanted[(inside > 0) & (inside <= sprinkles)] = -10
    return wanted


def random_logits(seed: int) -> Logits:
    """Of one pixel's noise or of blots, more or less of them inside; every third has many that are exactly 0."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(16, 20))
    if seed % 2:
        logits = 4 * sum(np.roll(logits, step, axis) for axis in (0, 1) for step in (0, 1, 2)) / 6
    logits += random.uniform(-1, 1)
    return (np.round(logits) if seed % 3 == 0 else logits).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("holes", "sprinkles"), BOTH_OR_ONE)
def test_small_areas_change_sides_as_in_metas_predictor(seed: int, holes: float, sprinkles: float) -> None:
    logits = random_logits(seed)
    before = logits.copy()
    cleaned = clean(logits, max_hole_area=holes, max_sprinkle_area=sprinkles)
    assert cleaned.dtype == np.float32
    assert np.array_equal(cleaned, cleaned_as_meta_does(logits, holes, sprinkles))
    assert np.array_equal(logits, before)


@pytest.mark.parametrize(("holes", "sprinkles"), BOTH_OR_ONE)
@pytest.mark.parametrize("size", [(61, 90), (7, 9), (300, 33)])
def test_masks_at_the_pictures_size_are_those_of_metas_predictor(
    size: tuple[int, int], holes: float, sprinkles: float
) -> None:
    for seed in range(4):
        logits = random_logits(seed)
        mask = runs(
            clean(logits, max_hole_area=holes, max_sprinkle_area=sprinkles), height=size[0], width=size[1]
        )
        theirs = torch.from_numpy(cleaned_as_meta_does(logits, holes, sprinkles))[None, None]
        shown = F.interpolate(theirs, size, mode="bilinear", align_corners=False)[0, 0].numpy()
        differ = mask.to_array() != (shown > 0)
        assert not (differ & (np.abs(shown) > 1e-5)).any()  # nearer to zero the rounding of a machine decides


def drawn(rows: str) -> Logits:
    """A logit for each character: # inside, . outside, 0 on the border between them, + and - after clean-up."""
    values = {"#": 1, ".": -1, "0": 0, "+": 10, "-": -10}
    return np.array([[values[each] for each in row] for row in rows.split()], np.float32)


@pytest.mark.parametrize(
    ("holes", "sprinkles", "before", "after"),
    [
        # A hole may touch the border, be of zeros, and cross a corner.
        (2, 0, ".#### ##### ##.## ###.# #####", "+#### ##### ##+## ###+# #####"),
        (1, 0, ".#### ##### ##.## ###.# #####", "+#### ##### ##.## ###.# #####"),
        (1, 0, "##### ##0## #####", "##### ##+## #####"),
        # A speck of exactly the area goes, one more pixel stays; zeros are no part of it.
        (0, 2, "..... .##.. ..... .#0.. .....", "..... .--.. ..... .-0.. ....."),
        (0, 1, "..... .##.. ..... .#0.. .....", "..... .##.. ..... .-0.. ....."),
        # A speck in a hole: the hole, without the speck, is filled, and the speck is cut from what was filled.
        (8, 1, "##### #...# #.#.# #...# #####", "##### #+++# #+-+# #+++# #####"),
        (8, 0, "##### #...# #.#.# #...# #####", "##### #+++# #+#+# #+++# #####"),
        # A hole in a speck: the speck goes, its filled hole stays behind.
        (1, 8, "..... .###. .#.#. .###. .....", "..... .---. .-+-. .---. ....."),
        # What is filled is not counted with what it joins: two specks with a hole between them are still two.
        (1, 3, "#.## #### #.##", "#+## #### #+##"),
        (1, 3, "##0##", "--+--"),
        # All of a mask may be one hole, or one speck.
        (9, 0, "... ... ...", "+++ +++ +++"),
        (0, 9, "### ### ###", "--- --- ---"),
        (9, 9, "### ... ###", "--- +++ ---"),
    ],
)
def test_what_becomes_of_holes_and_specks_by_hand(
    holes: float, sprinkles: float, before: str, after: str
) -> None:
    assert np.array_equal(cleaned_as_meta_does(drawn(before), holes, sprinkles), drawn(after))
    assert np.array_equal(
        clean(drawn(before), max_hole_area=holes, max_sprinkle_area=sprinkles), drawn(after)
    )
