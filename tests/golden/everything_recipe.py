"""Deterministic weights, logit maps, boxes and masks behind the golden numbers of "segment everything".

NumPy only. `weight` is for the end-to-end goldens: it is `video_recipe.weight` with a mask decoder whose masks
differ from click to click. The other functions use integer arithmetic only and feed the goldens of single steps.
"""

import numpy as np

from tests.golden import recipe, video_recipe


def weight(name: str, shape) -> np.ndarray:
    """The value of the parameter `name` in the end-to-end goldens of "segment everything", float32."""
    place = "layers.1.cross_attn_token_to_image" in name or "layers.1.cross_attn_image_to_token" in name
    if place and "k_proj.weight" in name:
        name = name.replace("k_proj", "q_proj")  # tokens and pixels look for each other by place
    if name in ("sam_mask_decoder.output_upscaling.0.weight", "sam_mask_decoder.output_upscaling.3.weight"):
        one = np.float32(4) * recipe.weight(name, (shape[0], shape[1], 1, 1))
        return np.ascontiguousarray(
            np.broadcast_to(one, tuple(shape))
        )  # the same for the four pixels of a cell
    if place:
        for part, factor in (("q_proj.weight", 1.6), ("v_proj.weight", 10), ("out_proj.weight", 4)):
            if part in name:
                return np.float32(factor) * recipe.weight(name, shape)
    if "transformer.layers.0.norm4" in name or "transformer.layers.1.norm3" in name:
        return np.float32(0.1) * recipe.weight(name, shape)
    tokens = ("iou_token", "mask_tokens", "obj_score_token", "point_embeddings", "not_a_point_embed")
    if any(token in name for token in tokens):
        return np.float32(0.3) * recipe.weight(name, shape)
    return video_recipe.weight(name, shape)


def _hash(values: np.ndarray) -> np.ndarray:
    """A mix of non-negative integers below 2**31, into 0..2**16-1."""
    values = values.astype(np.uint64)
    values = (values * np.uint64(2654435761) + np.uint64(374761393)) & np.uint64(0xFFFFFFFF)
    values = ((values ^ (values >> np.uint64(15))) * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    return ((values ^ (values >> np.uint64(13))) & np.uint64(0xFFFF)).astype(np.int64)


def logits(count: int, height: int, width: int) -> np.ndarray:
    """(count, height, width) float32 multiples of 1/16: soft discs with holes and specks; every fifth is empty."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    maps = []
    for i in range(count):
        a = _hash(np.arange(6) + 97 * i)
        cx, cy, radius = a[0] % width, a[1] % height, 4 + a[2] % (min(width, height) // 2)
        squared = (x - cx) ** 2 + (y - cy) ** 2
        field = (radius * radius - squared) * 48 // (radius * radius + 1)
        field = np.maximum(field, -160)
        specks = _hash(x * 7919 + y * 104729 + i) % 97 == 0
        field = np.where(specks, -field // 2 - 3, field)
        hole = (x - cx) ** 2 + (y - cy) ** 2 < a[3] % 40
        field = np.where(hole, -20, field)
        if i % 5 == 4:
            field = np.full_like(field, -64)
        maps.append(field.astype(np.float32) / np.float32(16))
    return np.stack(maps)


def boxes(count: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, 4) float32 x0 y0 x1 y1 in families of near duplicates, and (count,) float32 scores with ties."""
    i = np.arange(count)
    family = _hash(i) % max(count // 4, 1)
    x0, y0 = _hash(family + 1000) % (width // 2), _hash(family + 2000) % (height // 2)
    w, h = 8 + _hash(family + 3000) % (width // 2 - 8), 8 + _hash(family + 4000) % (height // 2 - 8)
    jitter = _hash(np.arange(4)[:, None] * 5000 + i) % 7
    found = np.stack([x0 + jitter[0], y0 + jitter[1], x0 + w - jitter[2], y0 + h - jitter[3]], 1)
    return found.astype(np.float32), (_hash(i + 9000) % 64 / np.float32(64)).astype(np.float32)


def masks(count: int, height: int, width: int) -> np.ndarray:
    """(count, height, width) bool: the logit maps above zero."""
    return logits(count, height, width) > 0
