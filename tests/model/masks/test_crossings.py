"""Segments that meet, compared with exact arithmetic on every pair; and simplified rings that stay apart."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from model.masks import crossings
from model.masks.crossings import crossing
from model.masks.outlines import outline
from model.masks.runs import runs
from model.masks.simplifying import simplify
from tests.model.masks.logit_maps import blobs

Point = tuple[Fraction, Fraction]
Segment = tuple[Point, Point]


def exact(points: np.ndarray) -> list[Point]:
    return [(Fraction(round(x * 100), 100), Fraction(round(y * 100), 100)) for x, y in points.tolist()]


def side(a: Point, b: Point, c: Point) -> int:
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    return (area > 0) - (area < 0)


def meet(one: Segment, other: Segment) -> bool:
    """Whether segments have a point in common that is no end of both, or more than one."""
    (a, b), (c, d) = one, other
    shared = {a, b} & {c, d}
    if len(shared) == 2:
        return True
    if shared:
        (joint,) = shared
        left, right = next(p for p in one if p != joint), next(p for p in other if p != joint)
        same_way = sum((p - j) * (q - j) for p, q, j in zip(left, right, joint, strict=True)) > 0
        return side(joint, left, right) == 0 and same_way
    boxes = all(
        max(min(a[i], b[i]), min(c[i], d[i])) <= min(max(a[i], b[i]), max(c[i], d[i])) for i in (0, 1)
    )
    return boxes and side(a, b, c) * side(a, b, d) <= 0 and side(c, d, a) * side(c, d, b) <= 0


def segments(rings: list[np.ndarray]) -> list[Segment]:
    return [
        (ring[i - 1], ring[i])
        for ring in map(exact, rings)
        for i in range(len(ring))
        if ring[i - 1] != ring[i]
    ]


def meetings(rings: list[np.ndarray]) -> int:
    return sum(meet(*pair) for pair in combinations(segments(rings), 2))


@pytest.mark.parametrize("most", [3, 12, 200, 2000])
@pytest.mark.parametrize("pairs", [crossings._PAIRS, 5])  # or many short runs
def test_segments_are_found_as_by_exact_arithmetic(
    most: int, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossings, "_PAIRS", pairs)
    rng = np.random.default_rng(most)
    begins = rng.integers(0, most, (60, 2)) / 4
    ends = begins + rng.choice([-0.25, 0.25, 1.5, most / 3], (60, 2))
    ends[-1] = begins[-1] + (most, 0.5)  # a long one among short ones
    suspects = rng.random(60) < 0.5
    found = crossing(begins, ends, suspects)
    pairs_of = list(zip(exact(begins), exact(ends), strict=True))
    expected = np.zeros(60, bool)
    for i, j in combinations(range(60), 2):
        if (suspects[i] or suspects[j]) and meet(pairs_of[i], pairs_of[j]):
            expected[[i, j]] = True
    assert found.tolist() == expected.tolist()
    assert most == 2000 or expected.any()


def test_few_segments_and_none() -> None:
    none = np.zeros((0, 2))
    assert crossing(none, none, np.zeros(0, bool)).tolist() == []
    one = np.ones((1, 2))
    assert crossing(one, one + 1, np.ones(1, bool)).tolist() == [False]


def band(teeth: int, depth: float) -> np.ndarray:
    """A ring around a thin jagged band, whose sides coarse chords would cut through."""
    rng = np.random.default_rng(teeth)
    across = np.arange(4 * teeth) * 0.5
    down = np.where(np.arange(4 * teeth) % 4 < 2, 0.0, depth) + rng.random(4 * teeth)
    upper = np.stack((across, down), 1)
    return np.concatenate((upper, np.add(upper, (0, 0.25))[::-1])).round(2)


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
def test_rings_that_did_not_cross_do_not_do_so_when_they_are_simplified(tolerance: float) -> None:
    rings = [band(12, 8.0), np.add(band(7, 3.0), (0, 0.5)) * (1, -1), np.add(band(3, 1.0), (40, 20))]
    assert meetings(rings) == 0
    tolerances = [np.full(len(ring), tolerance) for ring in rings]
    crossed = [ring[kept] for ring, kept in zip(rings, simplify(rings, tolerances), strict=True)]
    simple = [
        ring[kept] for ring, kept in zip(rings, simplify(rings, tolerances, uncrossed=True), strict=True)
    ]
    assert meetings(crossed) > 0
    assert meetings(simple) == 0
    assert sum(map(len, crossed)) <= sum(map(len, simple)) < sum(map(len, rings))


def test_what_crosses_from_the_beginning_is_left_as_it_is() -> None:
    bow_tie = np.array([[0.0, 0], [2, 1], [4, 2], [4, 0], [2, 1.01], [0, 2]])
    assert simplify([bow_tie], [np.full(6, 0.1)])[0].sum() == 4
    assert simplify([bow_tie], [np.full(6, 0.1)], uncrossed=True)[0].all()


@pytest.mark.parametrize("tolerance", [1.0, 4.0, 30.0])
def test_outlines_do_not_cross_however_coarse(tolerance: float) -> None:
    logits = blobs(48, 48)
    found = outline(logits, runs(logits, height=300, width=400), tolerance=tolerance)
    assert found.outer
    assert meetings(found.outer + found.holes) == 0
