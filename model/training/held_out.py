"""How good the weights are while they are being trained: a few clicks on photographs kept from training.

Does not know about the training loop.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from model.devices import resolve_device, resolve_dtype
from model.network.config import BUILTIN, VARIANTS
from model.network.sam2 import Sam2
from model.runner import Sam2Runner
from model.training.pack import Pack
from model.training.scenes import Scenes
from model.training.sessions import play_session

SCENES = 40
SMALLEST_SHARE = 0.002
"""Of a photograph's area; smaller objects are left out."""

MASKS_EACH = 2
CLICKS = (1, 3, 5)


def held_out_figures(pack: Pack, weights: dict[str, Tensor], *, side: int, device: str) -> dict[str, float]:
    """Mean IoU after 1, 3 and 5 clicks: on held-out photographs' largest objects, and on scenes made of them.

    None of these where no photographs are held out.
    """
    if not pack.photographs:
        return {}
    runner = runner_of(weights, side=side, device=device)
    photographs = [(photograph.pixels, _largest(photograph.masks)) for photograph in pack.photographs]
    source = Scenes(pack, side=side, masks_per_scene=1, seed=0)
    scenes = [(scene.picture, list(scene.masks)) for scene in (source[i] for i in range(SCENES))]
    figures: dict[str, float] = {}
    for name, cases in (("photographs", photographs), ("scenes", scenes)):
        ious = []
        for pixels, masks in cases:
            embedding = runner.encode([pixels])[0]
            ignored = np.zeros(pixels.shape[:2], bool)
            ious += [
                play_session(runner, embedding, mask, ignored=ignored, clicks=max(CLICKS)).ious
                for mask in masks
            ]
        means = np.mean(ious, axis=0)
        figures |= {f"{name}@{n}": round(float(means[n - 1]), 4) for n in CLICKS}
    return figures


def runner_of(weights: dict[str, Tensor], *, side: int, device: str) -> Sam2Runner:
    """The built-in model with these weights as the server would run it, at a size of its own."""
    torch_device = resolve_device(device)
    with torch.device("meta"):
        model = Sam2(replace(VARIANTS[BUILTIN], image_size=side))
    dtype = resolve_dtype("auto", torch_device)
    buffers = {name for name, _ in model.named_buffers()}
    own = {
        name: x.to(torch_device, torch.float32 if name in buffers else dtype, copy=True)
        for name, x in weights.items()
    }
    model.load_state_dict(own, assign=True)
    return Sam2Runner(model, name=BUILTIN, weights_fingerprint="training")


def _largest(masks: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    ordered = sorted(masks, key=lambda mask: int(mask.sum()), reverse=True)[:MASKS_EACH]
    return [mask for mask in ordered if mask.mean() > SMALLEST_SHARE]
