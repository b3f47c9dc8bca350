"""Outlines of a mask as polygons, between the pixels' centres where the logits cross zero.

Filled, they are the mask within a pixel of its border: no object and no hole is lost, however small. Does not know
about JSON.
"""

from dataclasses import dataclass

import numpy as np

from model.masks.borders import STEPS, Borders, borders
from model.masks.runs import Booleans, Floats, Integers, Ring, Runs, axis, finite
from model.masks.simplifying import halve, simplify

_NEAREST = 0.02
"""Pixels between an outline and the centre of any pixel, so that rounding never carries it across."""
_FLAT = 0.1
"""Pixels by which an outline moves at most when the points of its smooth stretches are left out, half of them in
as many steps as follows."""
_HALVINGS = 4
_DECIMALS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """The borders of a mask: closed rings (n, 2) of [x, y], the first point not repeated, n >= 3.

    Pixels of the picture, rounded to hundredths; pixel (0, 0) covers 0..1 x 0..1. With y downwards on the screen
    outer rings run clockwise and holes counter-clockwise. Objects that touch only by a corner have separate rings.
    No point occurs twice in a ring, and every ring has an area.
    """

    outer: list[Ring]
    holes: list[Ring]


def outline(logits_hw: Floats, mask: Runs, *, tolerance: float = 0.0) -> Outline:
    """The outline of `mask`, which are the runs of these logits (h, w) at the picture's size.

    Marching squares on the picture's pixels, of which only those at the border are looked at. Points are left out
    as long as the outline moves by at most `tolerance`, or a tenth of a pixel, and by less than half of what is
    narrow: an object or a gap one pixel wide stays.
    """
    found = borders(mask)
    if not found.sides.size:
        return Outline([], [])
    points, room, starts = _points(finite(logits_hw), found, height=mask.height, width=mask.width)
    exact = np.split(points, starts[1:-1])
    for _ in range(_HALVINGS):
        stay, starts = halve(points, starts, tolerance=_FLAT / 2 / _HALVINGS)
        points, room = points[stay], room[stay]
    smooth, limits = np.split(points, starts[1:-1]), np.split(room, starts[1:-1])
    flat = simplify(smooth, [np.minimum(limit, _FLAT / 2) for limit in limits])
    rings = [ring[kept] for ring, kept in zip(smooth, flat, strict=True)]
    if tolerance > _FLAT:
        rest = [np.minimum(limit[kept], tolerance - _FLAT) for limit, kept in zip(limits, flat, strict=True)]
        rings = [ring[kept] for ring, kept in zip(rings, simplify(rings, rest, uncrossed=True), strict=True)]
    outer: list[Ring] = []
    holes: list[Ring] = []
    for ring, whole, area in zip(rings, exact, found.areas.tolist(), strict=True):
        # A ring that crosses itself once points are left out can end with an area of zero.
        (outer if area > 0 else holes).append(ring if _area(ring) * area > 0 else whole)
    return Outline(outer, holes)


def _points(logits_hw: Floats, found: Borders, *, height: int, width: int) -> tuple[Ring, Floats, Integers]:
    """Return the points (n, 2) of all rings, how far each may move (n,), and where the rings begin."""
    step = STEPS[found.sides]
    beyond = found.pixels + step
    on_border = ((beyond < 0) | (beyond >= (width, height))).any(axis=1)
    inner = _sampled(logits_hw, found.pixels, height=height, width=width)
    outer = _sampled(logits_hw, beyond.clip(0, (width - 1, height - 1)), height=height, width=width)
    falls = inner - outer
    share = np.divide(inner, falls, out=np.full(falls.shape, 0.5), where=falls > 0)
    share = np.where(on_border, 0.5, share.clip(_NEAREST, 1 - _NEAREST))
    # What is one pixel wide takes up the whole pixel, for programs that look at other places than its centre.
    share = np.where(found.object_widths == 1, np.maximum(share, 0.5), share)
    share = np.where((found.background_widths == 1), np.minimum(share, 0.5), share)
    points = np.round(found.pixels + 0.5 + share[:, np.newaxis] * step, _DECIMALS)
    width_of_narrower = np.minimum(found.object_widths, found.background_widths)
    room = 0.32 * np.maximum(
        width_of_narrower - 1, 1.0
    )  # both sides move, and slopes by root 2 along an axis
    return _closed_along_the_border(points, room, found, on_border, size=(width, height))


def _closed_along_the_border(
    points: Ring, room: Floats, found: Borders, on_border: Booleans, *, size: tuple[int, int]
) -> tuple[Ring, Floats, Integers]:
    """Add the points where rings meet the picture's border and its corners; remove those amid the border."""
    before = _neighbours(found.starts)[0]
    upright = found.sides % 2 == 1
    turns = np.flatnonzero((upright != upright[before]) & (on_border | on_border[before]))
    one, other = points[turns], points[before[turns]]
    met = np.where(
        upright[turns, np.newaxis],
        np.stack((one[:, 0], other[:, 1]), 1),
        np.stack((other[:, 0], one[:, 1]), 1),
    )
    points = np.insert(points, turns, met, axis=0)
    room = np.insert(room, turns, np.minimum(room[turns], room[before[turns]]))
    starts = found.starts + np.searchsorted(turns, found.starts)

    before, after = _neighbours(starts)
    at_edge = np.concatenate((points == 0, points == size), axis=1)  # left, top, right, bottom
    kept = ~(at_edge & at_edge[before] & at_edge[after]).any(axis=1)
    starts = np.concatenate(([0], np.cumsum(kept)))[starts]
    return points[kept], room[kept], starts


def _neighbours(starts: Integers) -> tuple[Integers, Integers]:
    """Return the points before and after each point of closed rings."""
    places = np.arange(starts[-1])
    before, after = places - 1, places + 1
    before[starts[:-1]], after[starts[1:] - 1] = starts[1:] - 1, starts[:-1]
    return before, after


def _sampled(logits_hw: Floats, pixels: Integers, *, height: int, width: int) -> Ring:
    """Return bilinearly upsampled logits (n,) at the centres of pixels (n, 2)."""
    h, w = logits_hw.shape
    x, y = axis(w, width).sources[pixels[:, 0]], axis(h, height).sources[pixels[:, 1]]
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, below = np.minimum(left + 1, w - 1), np.minimum(top + 1, h - 1)
    across, down = (x - left).astype(np.float64), (y - top).astype(np.float64)
    upper = (1 - across) * logits_hw[top, left] + across * logits_hw[top, right]
    lower = (1 - across) * logits_hw[below, left] + across * logits_hw[below, right]
    return (1 - down) * upper + down * lower


def _area(ring: Ring) -> float:
    """Return the area within a ring, positive if it runs clockwise on the screen. By Gauss's formula."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
