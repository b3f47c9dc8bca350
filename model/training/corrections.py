"""Prompts for every mask of a batch at once, on the device where the masks are: clicks, boxes, masks a little off.

The rules of clicks are those of clicks.py; a test holds the two together. Does not know about networks.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_POOL = ThreadPoolExecutor(8, "distances")  # OpenCV lets go of the interpreter while it measures


def correcting_clicks(
    truth: Tensor, prediction: Tensor, *, excluded: Tensor, share_central: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One click for each mask: cells (n, 2), x and y, and whether they are on the object, (n,).

    `truth`, `prediction` and `excluded` are (n, h, w) bool. If no clickable pixel is wrong, the click is on any
    clickable pixel, which confirms the mask.
    """
    n, _, width = truth.shape
    device = truth.device
    regions = torch.stack([truth & ~prediction, prediction & ~truth])  # 2 n h w
    distances = distance_to_outside(regions.flatten(0, 1)).view(regions.shape) * ~excluded
    wanted = distances.flatten(2).amax(2)
    central = torch.where((wanted[0] >= wanted[1])[:, None, None], distances[0], distances[1])
    chances = torch.rand(truth.shape, generator=generator, device=device) + 1e-6
    wrong = regions.any(0) & ~excluded
    is_central = torch.rand(n, generator=generator, device=device) < share_central
    score = torch.where(is_central[:, None, None], central, chances * wrong)
    score = torch.where(wrong.flatten(1).any(1)[:, None, None], score, chances * ~excluded)
    place = score.flatten(1).argmax(1)
    is_object = truth.flatten(1).gather(1, place[:, None])[:, 0]
    return torch.stack([place % width, place // width], dim=1), is_object


def distance_to_outside(regions: Tensor) -> Tensor:
    """How far each cell of a region is from the nearest cell outside it or beyond the border, else 0.

    (n, h, w) bool to (n, h, w) float32. On a CPU OpenCV measures; on a GPU first each row within itself, then every
    row from every other, with no loop over the masks.
    """
    if regions.device.type == "cpu":
        return _by_opencv(regions)
    return _by_rows(regions)


def _by_opencv(regions: Tensor) -> Tensor:
    def measured(region: np.ndarray) -> np.ndarray:
        padded = np.pad(region.view(np.uint8), 1)
        return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]

    return torch.from_numpy(np.stack(list(_POOL.map(measured, regions.numpy()))))


def _by_rows(regions: Tensor) -> Tensor:
    _, height, width = regions.shape
    x = torch.arange(width, device=regions.device, dtype=torch.float32)
    y = torch.arange(height, device=regions.device, dtype=torch.float32)
    # The nearest cell outside to the left and to the right, or the border.
    left = torch.where(regions, -1.0, x).cummax(2).values
    right = torch.where(regions, float(width), x).flip(2).cummin(2).values.flip(2)
    along = torch.minimum(x - left, right - x).square()  # squared, within the row
    nearest = torch.minimum(y + 1, height - y).square()[:, None].expand_as(along).contiguous()
    for row in range(height):
        torch.minimum(nearest, along[:, row, None] + (y - row).square()[:, None], out=nearest)
    return nearest.sqrt_() * regions


def jittered_boxes(masks: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Boxes (n, 4) about masks (n, h, w) that are not empty, each side moved by up to `share` of width or height.

    x0, y0, x1, y1 in pixels, x1 and y1 where the last pixel ends; inside the picture, x0 < x1, y0 < y1.
    """
    x0, x1 = _extent(masks.any(1))
    y0, y1 = _extent(masks.any(2))
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moves = torch.rand(boxes.shape, generator=generator, device=masks.device) * 2 - 1
    height, width = masks.shape[1:]
    limit = torch.tensor([width, height] * 2, device=masks.device)
    return (boxes + moves * share * sides).clamp(min=0).minimum(limit)


def moved_masks(masks: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Masks (n, h, w), none of them empty, as they may have been on another frame of a video.

    Moved by up to `share` of their boxes' sides, and by as much wider or narrower, higher or lower. As they are
    where nothing would be left in the picture.
    """
    n, side = len(masks), torch.tensor([masks.shape[2], masks.shape[1]], device=masks.device)
    boxes = jittered_boxes(masks, share=0.0, generator=generator)
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / side - 1, (boxes[:, 2:] - boxes[:, :2]) / side * 2
    random = torch.rand(2, n, 2, generator=generator, device=masks.device) * 2 - 1
    scale, move = torch.exp(share * random[0]), share * random[1] * sizes
    matrix = torch.cat([torch.diag_embed(scale), (centres - scale * (centres - move))[..., None]], dim=2)
    grid = F.affine_grid(matrix, [n, 1, *masks.shape[1:]], align_corners=False)
    moved = F.grid_sample(masks[:, None].float(), grid, align_corners=False)[:, 0] > 0.5
    return torch.where(moved.flatten(1).any(1)[:, None, None], moved, masks)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied place and the one after the last, (n,) each, of (n, length)."""
    first = occupied.int().argmax(1)
    last = occupied.flip(1).int().argmax(1)
    return first, occupied.shape[1] - last
