"""`python -m model.training.ranking DATA WEIGHTS OUT.safetensors`: which of a click's three masks is the best.

Trains the perceptron that predicts the masks' IoU, and nothing else: each mask stays bit for bit. A run sees
composed scenes, where parts, regions and shapes are objects as often as whole things; here it is first clicks on
the pack's own photographs, drawn as those held out are. The decoded IoU tokens do not change, so they are found
once, in ten minutes on two cores, and training takes seconds. Estimates after later clicks are held where they are.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from model.network.config import BUILTIN, VARIANTS
from model.network.mask_decoder import DecoderOutput
from model.network.prompt_encoder import NEGATIVE, PADDING, POSITIVE
from model.network.sam2 import Sam2
from model.runner import Sam2Runner
from model.training.corrections import correcting_clicks
from model.training.export import Weights, export
from model.training.held_out import GROUP_WEIGHTS, group_of
from model.training.losses import true_iou
from model.training.network import network_of
from model.training.pack import Pack, PackError, read_pack
from model.training.split import chosen
from model.training.views import view_of_all
from model.types import LOGIT_LIMIT, Embedding

HEAD = "sam_mask_decoder.iou_prediction_head."
"""Where the weights that change are."""

OBJECTS_EACH = 6
"""At most, of a photograph."""

CLICKS_EACH = 2
"""On an object."""

SEED = 0

EPOCHS, BATCH, LEARNING_RATE = 12, 256, 3e-4

KEPT_WEIGHT = 1.0
"""Of how far the estimates of later clicks move."""

STAY_WEIGHT = 1e-3
"""Of the squared distance from the weights that it began with."""


@dataclass(frozen=True, slots=True)
class Clicks:
    """What the perceptron sees of clicks, and what it should say."""

    tokens: Tensor
    """(n, c): the decoded IoU token after a first click."""
    ious: Tensor
    """(n, 3) of the three masks, 0..1."""
    weights: Tensor
    """(n,), 1 on average: each group of sources counts as in held_out.py."""
    later: Tensor
    """(m, c): the token after a second click."""


def look(network: Sam2, pack: Pack) -> Clicks:
    """Click at objects of every photograph. Raises PackError where there is none."""
    runner = Sam2Runner(network, name=BUILTIN, weights_fingerprint="training")
    session = _FirstClicks(network)
    groups: list[str] = []
    with closing(session):
        for picture in tqdm(pack.photographs, desc="clicks", unit="picture", disable=None, leave=False):
            view = view_of_all(picture.pixels, network.config.image_size)
            masks = [view.see_mask(picture.mask(index)) for index in chosen(picture, OBJECTS_EACH)]
            if not (seen := [mask for mask in masks if mask.any()]):  # what is thin may vanish
                continue
            truth = torch.from_numpy(np.stack(seen))
            (embedding,) = runner.encode([view.see(picture.pixels)])
            groups += [group_of(picture.source)] * session.play(embedding, truth)
    if not groups:
        raise PackError("No photograph has an object to click at.")
    counts = Counter(groups)
    weights = torch.tensor([GROUP_WEIGHTS[group] / counts[group] for group in groups])
    return Clicks(
        torch.cat(session.tokens), torch.cat(session.ious), weights / weights.mean(), torch.cat(session.later)
    )


def fit(head: nn.Module, clicks: Clicks, *, say: Callable[[str], None] = lambda _: None) -> None:
    """Train a perceptron (n, c) -> logits (n, 4), in place, to say which of masks 1 to 3 is the best."""
    parameters = [x.requires_grad_() for x in head.parameters()]  # a runner has switched them off
    before = [x.detach().clone() for x in parameters]
    with torch.no_grad():
        kept = head(clicks.later).sigmoid()
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(SEED)
    for epoch in range(EPOCHS):
        order, later = (torch.randperm(len(x), generator=generator) for x in (clicks.tokens, clicks.later))
        total = 0.0
        for place, rows in enumerate(order.split(BATCH)):
            others = later[torch.arange(place * BATCH, (place + 1) * BATCH) % len(later)]
            predicted = head(clicks.tokens[rows])[:, 1:].sigmoid()
            error = (clicks.weights[rows, None] * (predicted - clicks.ious[rows]).square()).mean()
            moved = F.mse_loss(head(clicks.later[others]).sigmoid(), kept[others])
            strayed = torch.stack(
                [(x - y).square().sum() for x, y in zip(parameters, before, strict=True)]
            ).sum()
            loss = error + KEPT_WEIGHT * moved + STAY_WEIGHT * strayed
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(rows)
        say(f"epoch {epoch + 1}: loss {total / len(order):.4f}")


@torch.no_grad()
def reached(head: nn.Module, clicks: Clicks) -> tuple[float, float]:
    """Mean IoU of the masks that a perceptron chooses, and that of the best ones."""
    best = head(clicks.tokens)[:, 1:].argmax(1, keepdim=True)
    means = (clicks.ious.gather(1, best)[:, 0], clicks.ious.amax(1))
    chosen, most = (float((clicks.weights * x).mean()) for x in means)
    return chosen, most


class _FirstClicks:
    """First clicks on each object of a picture and one after each, without gradients; notes what comes of them."""

    def __init__(self, network: Sam2) -> None:
        self.tokens: list[Tensor] = []
        self.ious: list[Tensor] = []
        self.later: list[Tensor] = []
        self._network = network
        self._generator = torch.Generator().manual_seed(SEED)
        self._token = torch.zeros(0)
        self._hook = network.sam_mask_decoder.iou_prediction_head.register_forward_pre_hook(self._note)

    def close(self) -> None:
        """Leave the network as it was."""
        self._hook.remove()

    def _note(self, _: nn.Module, given: tuple[Tensor]) -> None:
        self._token = given[0].clone()

    @torch.no_grad()
    def play(self, embedding: Embedding, truth: Tensor) -> int:
        """Click at masks (n, s, s) of a picture of this size. Returns how many first clicks there were.

        One is at the middle of an object, the other halfway from there to anywhere in it: nobody hits the middle
        each time, and at the edge masks are worse than clicks deserve.
        """
        maps = [x[None].expand(len(truth), *x.shape) for x in embedding.maps()]
        nothing, rows = torch.zeros_like(truth), torch.arange(len(truth))
        click = partial(correcting_clicks, truth, generator=self._generator)
        middle, _ = click(nothing, excluded=nothing, share_central=1.0)
        anywhere, _ = click(nothing, excluded=nothing, share_central=0.0)
        between = (middle + anywhere) // 2
        is_inside = truth[rows, between[:, 1], between[:, 0]]
        for first in (middle, torch.where(is_inside[:, None], between, middle)):
            coords, labels = first[:, None].float(), torch.full((len(truth), 1), POSITIVE)
            output = self._decode(maps, coords, labels, None)
            fine = F.interpolate(output.logits[:, 1:], truth.shape[1:], mode="bilinear", align_corners=False)
            self.tokens.append(self._token)
            self.ious.append(true_iou(fine, truth[:, None].float()))
            best = output.iou[:, 1:].argmax(1)
            clicked = nothing.clone()
            clicked[rows, first[:, 1], first[:, 0]] = True
            second, is_object = click(fine[rows, best] > 0, excluded=clicked, share_central=1.0)
            coords = torch.cat([coords, second[:, None].float()], dim=1)
            labels = torch.cat([labels, torch.where(is_object, POSITIVE, NEGATIVE)[:, None]], dim=1)
            self._decode(maps, coords, labels, output.logits[rows, best + 1, None])
            self.later.append(self._token)
        return CLICKS_EACH * len(truth)

    def _decode(
        self, maps: list[Tensor], coords: Tensor, labels: Tensor, logits: Tensor | None
    ) -> DecoderOutput:
        count, side = len(coords), self._network.config.mask_size
        given = torch.zeros(count, 1, side, side) if logits is None else logits
        return self._network.decode(
            *maps,
            coords=F.pad(coords, (0, 0, 0, 1)),
            labels=F.pad(labels, (0, 1), value=PADDING),
            mask_logits=given.clamp(-LOGIT_LIMIT, LOGIT_LIMIT),
            has_mask=torch.full((count,), logits is not None),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 where there is nothing to learn from or to write to."""
    parser = argparse.ArgumentParser(
        prog="python -m model.training.ranking",
        description="Learn which of a click's three masks is the best.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the training pack")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="an exported file or a run's state")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    args = parser.parse_args(arguments)
    try:
        weights = Weights.read(args.weights)
        network = network_of(VARIANTS[weights.variant], weights.tensors)
        clicks = look(network, read_pack(args.data).training())
        head = network.sam_mask_decoder.iou_prediction_head
        before, most = reached(head, clicks)
        fit(head, clicks, say=print)
        after, _ = reached(head, clicks)
        found = {f"{HEAD}{name}": x.detach() for name, x in head.named_parameters()}
        made = {"step": EPOCHS, "plan": {"ranking": len(clicks.tokens), "seed": SEED}}
        export([Weights(weights.variant, weights.tensors | found, [*weights.runs, made])], args.out)
    except (PackError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{args.out}: {len(clicks.tokens):,} clicks; chosen {before:.3f}, now {after:.3f}, best {most:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
