"""Deterministic frames, mask prompts and weights behind the golden numbers of videos.

NumPy only, like `recipe.py`, which it builds on. `weight` takes the same parameter names (the "shapes" object of
the image golden of a variant lists all of them, video memory included). The image encoder's values are those of
`recipe.weight`; everything behind it is calmer, so that rounding is damped instead of amplified from frame to
frame, while object pointers, their temporal encoding and the "no object" embeddings weigh enough for a mistake to
be seen.
`frame` and `mask` use integer arithmetic only.
"""

import numpy as np

from tests.golden import recipe


def weight(name: str, shape) -> np.ndarray:
    """The value of the parameter `name` in the goldens of videos, float32."""
    x = recipe.weight(name, shape)
    if name.startswith("image_encoder.") or "conv_s0" in name or "conv_s1" in name:
        return x  # the embedding of a picture is the one of the image goldens
    if "q_proj" in name or "k_proj" in name:
        return np.float32(0.5) * x
    if name.startswith("obj_ptr_proj.layers.2"):
        return np.float32(12) * x
    if name == "obj_ptr_tpos_proj.weight":
        return np.float32(0.4) * x
    if name == "no_obj_ptr":
        return np.float32(64) * x
    if name == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
        return x + np.float32(1.5)  # objects are there, unless a case moves this bias
    return x


def _wave(values: np.ndarray, period: int) -> np.ndarray:
    return np.abs(values % (2 * period) - period) * 255 // period


def frame(index: int, width: int = 320, height: int = 240) -> np.ndarray:
    """Frame `index` of the golden video (height, width, 3), uint8: shapes that move over a drifting texture."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    grain = ((x * 73 + y * 151 + index * 29) ^ (x * y + 7 * x)) % 17
    picture = np.stack(
        [
            _wave(x + 2 * index, 97) // 2 + 40 + grain,
            _wave(2 * y + x, 131) // 3 + 70 + grain,
            _wave(x - y + 3 * index + 512, 61) // 4 + 30 + grain,
        ],
        -1,
    )
    stripes = (x // 6 + y // 9) % 2 == 0
    disc = (x - 90 - 11 * index) ** 2 + (y - 120 + 5 * index) ** 2 < 34**2
    picture[disc] = (220, 60, 50)
    picture[disc & stripes] = (180, 40, 90)
    box = (np.abs(x - 235 + 9 * index) < 30) & (np.abs(y - 70 - 6 * index) < 22)
    picture[box] = (50, 90, 230)
    leaving = (
        np.abs(x - 240 - 24 * index) + np.abs(y - 185 - 3 * index) < 36
    )  # outside the picture from frame 5 on
    picture[leaving] = (245, 220, 70)
    return np.clip(picture, 0, 255).astype(np.uint8)


def mask(name: str, width: int = 320, height: int = 240) -> np.ndarray:
    """A mask prompt (height, width), bool: "disc-2" is the disc of frame 2, "empty" has no pixel at all."""
    kind, _, index = name.partition("-")
    if kind == "empty":
        return np.zeros((height, width), bool)
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    return (x - 90 - 11 * int(index)) ** 2 + (y - 120 + 5 * int(index)) ** 2 < 34**2
