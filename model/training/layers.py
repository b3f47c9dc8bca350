"""Things to paste: instances out of photographs, cut-outs, and shapes with the texture of something else.

Does not know what lies below, but for its colours.
"""

import cv2
import numpy as np
import numpy.typing as npt

from model.training import shapes, textures
from model.training.canvas import Layer
from model.training.pack import Picture, Pixels, as_pixels
from model.training.views import view_of


def instance(picture: Picture, index: int, ground: Pixels, rng: np.random.Generator) -> Layer:
    """One instance of a photograph, 15 to 80 % of the frame; `ground` (side, side, 3) is what it will be on.

    Where the photograph cuts it off, so does the frame.
    """
    side = ground.shape[0]
    h, w = picture.pixels.shape[:2]
    left, top, box_w, box_h = picture.boxes[index]
    stretch, factor = _stretch(rng), 0.0
    factor = side * _size(rng) / max(box_w * stretch, box_h / stretch)
    across, down = factor * stretch, factor / stretch
    mirrored = rng.random() < 0.5
    target = _place(side, rng)
    cut_left, cut_right = left <= 1, left + box_w >= w - 1
    if mirrored:
        cut_left, cut_right = cut_right, cut_left
    edge_x, edge_y = box_w * across / 2, box_h * down / 2
    target[0] = edge_x if cut_left else side - edge_x if cut_right else target[0]
    target[1] = edge_y if top <= 1 else side - edge_y if top + box_h >= h - 1 else target[1]
    is_cut = cut_left or cut_right or top <= 1 or top + box_h >= h - 1
    turn = 0.0 if is_cut else rng.normal(0, np.radians(10))
    view = view_of(
        (left + box_w / 2 - 0.5, top + box_h / 2 - 0.5),
        (side / across, side / down),
        side,
        turn=turn,
        mirrored=mirrored,
        target=(target[0], target[1]),
    )
    inside = as_pixels(
        cv2.erode(picture.mask(index).view(np.uint8) * np.uint8(255), np.ones((3, 3), np.uint8))
    )
    alpha = view.see(inside, beyond=cv2.BORDER_REPLICATE if is_cut else cv2.BORDER_CONSTANT)
    alpha = _softened(alpha, rng)
    rgb = view.see(picture.pixels)
    if rng.random() < 0.7:
        rgb = textures.nearer(rgb, alpha, ground, rng.uniform(0, 0.4))
    return Layer(rgb, alpha)


def cutout(picture: Picture, ground: Pixels, surface: Pixels, rng: np.random.Generator) -> Layer:
    """A cut-out, flat as it is drawn, or lit, or with something of `surface` (side, side, 3) on it."""
    side = ground.shape[0]
    h, w = picture.pixels.shape[:2]
    stretch = _stretch(rng)
    factor = side * _size(rng) / max(w * stretch, h / stretch)
    target = _place(side, rng)
    view = view_of(
        (w / 2 - 0.5, h / 2 - 0.5),
        (side / (factor * stretch), side * stretch / factor),
        side,
        turn=rng.normal(0, np.radians(25)),
        mirrored=rng.random() < 0.5,
        target=(target[0], target[1]),
    )
    rgb = view.see(_bled(picture.pixels), beyond=cv2.BORDER_REPLICATE)
    alpha = view.see(picture.pixels[..., 3], beyond=cv2.BORDER_CONSTANT)
    manner = rng.random()
    if manner < 0.3:
        rgb = textures.embossed(rgb, surface, rng.uniform(0.3, 0.9))
    elif manner < 0.5:
        share = rng.uniform(0.3, 0.9)
        rgb = as_pixels(cv2.addWeighted(rgb, 1 - share, surface, share, 0))
    if rng.random() < 0.5:
        rgb = textures.shaded(rgb, rng)
    if rng.random() < 0.4:
        rgb = textures.nearer(rgb, alpha, ground, rng.uniform(0, 0.5))
    if rng.random() < 0.3:
        alpha = _softened(alpha, rng)
    return Layer(rgb, alpha, shadow=_shadow(alpha, rng) if rng.random() < 0.4 else None)


def shape(ground: Pixels, surfaces: tuple[Pixels, Pixels], rng: np.random.Generator) -> Layer:
    """A shape of the first surface. Half hold another, of the second: whole, inner part and rest are masks."""
    side = ground.shape[0]
    centre, radius = _place(side, rng), side * _size(rng) / 2
    own = shapes.outline(rng)
    alpha = shapes.fill(own, centre, radius, side)
    rgb = textures.alike(surfaces[0], ground) if rng.random() < 0.3 else surfaces[0]
    parts: tuple[npt.NDArray[np.bool_], ...] = ()
    if rng.random() < 0.5:
        inner = own if rng.random() < 0.5 else shapes.outline(rng)
        within = centre + rng.normal(0, 0.1, 2) * radius
        marked = shapes.fill(inner, within, radius * rng.uniform(0.3, 0.65), side)
        if rng.random() < 0.25:
            marked &= shapes.stripes(side, rng)
        marked = np.minimum(marked, alpha)
        rgb = np.where(marked[..., None] >= 128, surfaces[1], rgb)
        parts = (marked >= 128, (alpha >= 128) & (marked < 128))
    elif rng.random() < 0.15:
        bands = shapes.stripes(side, rng)
        rgb = np.where(bands[..., None] >= 128, surfaces[1], rgb)
    return Layer(rgb, alpha, parts, _shadow(alpha, rng) if rng.random() < 0.2 else None)


def _size(rng: np.random.Generator) -> float:
    """Longest side over the frame's: large ones as often as all others."""
    return float(
        rng.uniform(0.4, 0.85) if rng.random() < 0.5 else np.exp(rng.uniform(np.log(0.15), np.log(0.6)))
    )


def _stretch(rng: np.random.Generator) -> float:
    """Root of the ratio of width to height: the frame does not keep a photograph's aspect."""
    return float(np.exp(rng.uniform(np.log(0.7), np.log(1.4)) / 2))


def _place(side: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Of the middle of a thing: about the middle of the frame, or anywhere."""
    if rng.random() < 0.6:
        return np.clip(rng.normal(0.5, 0.12, 2), 0.1, 0.9) * side
    return rng.uniform(0.08, 0.92, 2) * side


def _softened(alpha: Pixels, rng: np.random.Generator) -> Pixels:
    """As a lens would leave its edge: within a pixel or so."""
    return as_pixels(cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.4, 1.1) * alpha.shape[0] / 256))


def _bled(rgba: Pixels) -> Pixels:
    """Colour carried over the edge, where files keep black, so that no dark seam is sampled; (h, w, 3).

    It is the colour of nearby pixels; far from any, the mean of all.
    """
    alpha = rgba[..., 3]
    weight = alpha.astype(np.float32) / 255
    mean = np.array(cv2.mean(rgba[..., :3], alpha)[:3], np.float32)
    near = cv2.blur(rgba[..., :3] * weight[..., None], (5, 5)) + 0.001 * mean
    near = near / (cv2.blur(weight, (5, 5)) + 0.001)[..., None]
    return np.where(alpha[..., None] >= 200, rgba[..., :3], np.clip(near, 0, 255).astype(np.uint8))


def _shadow(alpha: Pixels, rng: np.random.Generator) -> Pixels:
    """The thing's own outline, moved, flattened and soft."""
    side = alpha.shape[0]
    _, y, _, h = cv2.boundingRect(alpha)
    flat = rng.uniform(0.15, 1.0)
    foot = y + h
    shift = np.array(
        [[1, rng.uniform(-0.4, 0.4), 0], [0, flat, foot * (1 - flat) + rng.uniform(0, 0.06) * side]]
    )
    shift[0, 2] = -shift[0, 1] * foot + rng.normal(0, 0.04) * side
    cast = cv2.warpAffine(alpha, shift, (side, side))
    cast = cv2.GaussianBlur(cast, (0, 0), side * rng.uniform(0.01, 0.05))
    return (cast * rng.uniform(0.2, 0.6)).astype(np.uint8)
