"""Logits as npz files."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch

from app.codecs.logit_files import npz, npz_bytes
from model.masks.runs import runs


@pytest.mark.parametrize(
    ("height", "width"), [(40, 60), (33, 21), (7, 5), (1, 1), (700, 1100)], ids=lambda side: str(side)
)
def test_masks_are_those_of_torch_and_above_zero_is_the_object(height: int, width: int) -> None:
    low = (5 * np.random.default_rng(1).normal(size=(2, 32, 32))).astype(np.float32)
    with np.load(io.BytesIO(b"".join(npz(list(low), height=height, width=width)))) as file:
        masks, low_res_masks = file["masks"], file["low_res_masks"]
    assert np.array_equal(low_res_masks, low)
    assert (masks.dtype, masks.shape) == (np.float32, (2, height, width))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(low)[None], size=(height, width), mode="bilinear", align_corners=False
    )[0].numpy()
    assert np.abs(masks - expected).max() < 1e-4
    for mask, logits in zip(masks, low, strict=True):
        own = runs(logits, height=height, width=width).to_array()
        assert ((mask > 0) != own).sum() <= 1e-4 * mask.size  # those that rounding decides


def test_a_file_comes_in_pieces_that_a_worker_makes_in_milliseconds() -> None:
    pieces = list(npz([np.zeros((8, 8), np.float32)] * 2, height=1500, width=2000))
    assert max(map(len, pieces)) < 2 << 20
    assert sum(map(len, pieces)) == pytest.approx(npz_bytes(2, height=1500, width=2000), rel=1e-3)
    assert all(first and second for first, second in pairwise(pieces))
