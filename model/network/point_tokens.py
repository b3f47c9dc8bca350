"""Converts a prompt's box, clicks and mask to what the prompt encoder takes.

Does not know about devices: NumPy computes the same numbers for every device.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.network.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PADDING
from model.types import Embedding, Prompt


def num_point_tokens(prompt: Prompt) -> int:
    """Two for a box, one for each click, and one for padding; none for a mask alone."""
    return len(_box_clicks_padding(prompt)[1])


def point_tokens(
    jobs: Sequence[tuple[Embedding, Prompt]], *, image_size: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Coordinates (b, n, 2) in pixels of the square picture and labels (b, n), all prompts n tokens long.

    The order of these float32 operations is Meta's: the position encoding turns coordinates several times
    around, and attention enlarges what rounding differently leaves to 1e-4 of the logits.
    """
    tokens = [_box_clicks_padding(prompt) for _, prompt in jobs]
    coords = np.array([points for points, _ in tokens], np.float32).reshape(len(jobs), -1, 2)
    sizes = np.array([(e.width, e.height) for e, _ in jobs], np.float32)
    coords = coords / sizes[:, None] * np.float32(image_size)
    labels = np.array([labels for _, labels in tokens], np.int64).reshape(len(jobs), -1)
    return coords, labels


def mask_inputs(
    prompts: Sequence[Prompt], *, side: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Logits (b, 1, side, side), 0 where a prompt has none, and which prompts have some, (b,)."""
    logits = np.zeros((len(prompts), 1, side, side), np.float32)
    for i, prompt in enumerate(prompts):
        if prompt.mask_logits is not None:
            logits[i, 0] = prompt.mask_logits
    return logits, np.array([prompt.mask_logits is not None for prompt in prompts])


def _box_clicks_padding(prompt: Prompt) -> tuple[list[tuple[float, float]], list[int]]:
    """A box's corners, the clicks, and one padding point; nothing at all for a mask alone."""
    points, labels = list(prompt.points), list(prompt.labels)
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        points = [(x0, y0), (x1, y1), *points]
        labels = [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, *labels]
    return ([*points, (0.0, 0.0)], [*labels, PADDING]) if points else ([], [])
