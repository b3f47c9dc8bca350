"""Small holes and specks in logits, against a flood fill written for the eye; and that the input stays."""

import numpy as np
import pytest

from model.cleaning import clean


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


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("holes", "sprinkles"), [(0, 0), (3, 0), (0, 3), (2.5, 7), (400, 400)])
def test_small_areas_change_sides_as_in_metas_predictor(seed: int, holes: float, sprinkles: float) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(random.uniform(-1, 1), 1, (16, 20)).astype(np.float32)
    wanted = logits.copy()
    background, inside = areas(logits <= 0), areas(logits > 0)
    wanted[(background > 0) & (background <= holes)] = 10
    wanted[(inside > 0) & (inside <= sprinkles)] = -10
    before = logits.copy()
    assert np.array_equal(clean(logits, max_hole_area=holes, max_sprinkle_area=sprinkles), wanted)
    assert np.array_equal(logits, before)


def test_areas_that_touch_at_a_corner_are_one() -> None:
    logits = np.full((6, 6), -1, np.float32)
    logits[1, 1] = logits[2, 2] = 1
    assert (clean(logits, max_hole_area=0, max_sprinkle_area=1) > 0).sum() == 2
    assert (clean(logits, max_hole_area=0, max_sprinkle_area=2) > 0).sum() == 0
