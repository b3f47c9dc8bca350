"""`python -m model.training.held_out DATA`: how good weights are on photographs of the pack kept from training.

By this, weights are chosen; no set that is reported on may choose them. Does not know about the training loop.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor
from tqdm import tqdm

from model.devices import resolve_device, resolve_dtype
from model.errors import CheckpointError
from model.network.config import BUILTIN, VARIANTS
from model.runner import Sam2Runner
from model.training.evaluate import add_model_options, clicks_to, label, load
from model.training.network import network_of
from model.training.pack import Pack, PackError, read_pack
from model.training.reliability import Bin, calibration_error, reliability
from model.training.sessions import MAX_CLICKS, Model, PicturePredictor, Session, play_session
from model.training.split import VALIDATION_SHARE, Case, Kind, Target, cases
from model.training.zooming import ZoomingPredictor

GROUPS = {
    "coco-mini": "scenes",
    "coco128-seg": "scenes",
    "coco-cc": "scenes",
    "coco-cc-person": "persons",
    "openimages-animals": "animals",
    "facades": "facades",
    "dsb2018": "nuclei",
}
"""Sources that show the same kind of thing; any other shows things on a table or in a hand."""

OTHERS = "things"

GROUP_WEIGHTS = {
    "scenes": 0.35,
    "animals": 0.2,
    "persons": 0.15,
    OTHERS: 0.15,
    "facades": 0.1,
    "nuclei": 0.05,
}
"""What each group's mean counts in the mean of all. A newcomer's first picture is an everyday one, so seven tenths
are scenes, animals and persons. Facades and nuclei say whether many small things stay apart; more of them would
choose weights for what few will click at. Weights of groups and not of objects, so that what a source happens to
have many of does not count more."""

CLICKS = (1, 3, 5)


@dataclass(frozen=True, slots=True)
class Row:
    """Means over some objects."""

    objects: int
    miou_at_1: float
    miou_at_3: float
    miou_at_5: float
    noc_85: float
    """Clicks to an IoU of 0.85, 20 where it is not reached."""
    noc_90: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What weights reach on the photographs held out."""

    overall: Row
    """The groups' means, weighed by `GROUP_WEIGHTS`."""
    groups: dict[str, Row]
    sources: dict[str, Row]
    kinds: dict[str, Row]
    first: tuple[Bin, ...]
    """Predicted IoU against true IoU, of the three masks after a first click."""
    later: tuple[Bin, ...]
    """The same, of the masks after later clicks."""


@dataclass(frozen=True, slots=True)
class Played:
    """One object and how it was found."""

    source: str
    kinds: frozenset[Kind]
    session: Session


def play(
    model: Model, held_out: Sequence[Case], *, clicks: int = MAX_CLICKS, zoom: bool = False
) -> list[Played]:
    """Click on every object of every photograph, with `zoom` as in zooming.py."""
    played = []
    for case in tqdm(held_out, desc="held out", unit="picture", disable=None, leave=False):
        pixels = case.picture.pixels
        embedding = model.encode([pixels])[0]
        ignored = np.zeros(pixels.shape[:2], bool)

        def session(target: Target) -> Session:
            predictor = (
                ZoomingPredictor(model, embedding, pixels) if zoom else PicturePredictor(model, embedding)  # noqa: B023
            )
            return play_session(predictor, target.mask, ignored=ignored, clicks=clicks)  # noqa: B023

        played += [Played(case.picture.source, x.kinds, session(x)) for x in case.targets]
    return played


def figures(played: Sequence[Played]) -> HeldOut:
    """Sum up sessions of 20 clicks on at least one object."""
    groups = _rows((group_of(x.source), x) for x in played)
    return HeldOut(
        overall=weighted(groups),
        groups=groups,
        sources=_rows((x.source, x) for x in played),
        kinds=_rows((kind.value, x) for kind in Kind for x in played if kind in x.kinds),
        first=reliability(e for x in played for e in x.session.first_estimates),
        later=reliability(e for x in played for e in x.session.later_estimates),
    )


def group_of(source: str) -> str:
    """The group in which a source counts."""
    return GROUPS.get(source, OTHERS)


def weighted(groups: dict[str, Row]) -> Row:
    """The mean of the groups that are there, by `GROUP_WEIGHTS`."""
    weights = np.array([GROUP_WEIGHTS[name] for name in groups])
    values = np.array([list(asdict(row).values()) for row in groups.values()])
    _, *means = map(float, weights @ values / weights.sum())
    return Row(sum(row.objects for row in groups.values()), *means)


def validation_figures(pack: Pack, weights: dict[str, Tensor], *, side: int, device: str) -> dict[str, float]:
    """Mean IoU after 1, 3 and 5 clicks on a quarter of the photographs held out, for a look while training.

    None of these where no photographs are held out.
    """
    held_out = list(cases(pack, share=VALIDATION_SHARE))
    if not held_out:
        return {}
    played = play(runner_of(weights, side=side, device=device), held_out, clicks=max(CLICKS))
    groups = _rows((group_of(x.source), x) for x in played)
    row = weighted(groups)
    values = (row.miou_at_1, row.miou_at_3, row.miou_at_5)
    return {f"held_out@{n}": round(value, 4) for n, value in zip(CLICKS, values, strict=True)}


def runner_of(weights: dict[str, Tensor], *, side: int, device: str) -> Sam2Runner:
    """The built-in model with these weights as the server would run it, at a size of its own."""
    torch_device = resolve_device(device)
    config = replace(VARIANTS[BUILTIN], image_size=side)
    network = network_of(config, weights, device=torch_device, dtype=resolve_dtype("auto", torch_device))
    return Sam2Runner(network, name=BUILTIN, weights_fingerprint="training")


def table(found: HeldOut) -> str:
    """All figures, as Markdown."""
    heads = ("", "objects", "mIoU@1", "mIoU@3", "mIoU@5", "NoC@85", "NoC@90")
    rows = [_cells("**all, weighted**", found.overall)]
    for of, part in (("group", found.groups), ("source", found.sources), ("kind", found.kinds)):
        rows += [_cells(f"{of}: {name}", part[name]) for name in sorted(part)]
    bins = [
        (f"{a.lowest:.1f} to {a.highest:.1f}", *_bin_cells(a), *_bin_cells(b))
        for a, b in zip(found.first, found.later, strict=True)
    ]
    errors = [f"{calibration_error(x):.3f}" for x in (found.first, found.later)]
    bins.append(("mean difference", "", "", errors[0], "", "", errors[1]))
    first, later = "first click: masks", "later clicks: masks"
    bin_heads = ("predicted IoU", first, "predicted", "true", later, "predicted", "true")
    return f"{_markdown(heads, rows)}\n\n{_markdown(bin_heads, bins)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 where the pack or the weights are not to be had."""
    parser = argparse.ArgumentParser(
        prog="python -m model.training.held_out",
        description="How good weights are on the photographs held out.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the training pack")
    parser.add_argument(
        "--zoom", action="store_true", help="look at small objects more closely from the second click on"
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)
    try:
        held_out = list(cases(read_pack(args.data)))
        if not held_out:
            raise PackError(f"No photograph of {args.data} is held out: the pack has too few.")
        runner = load(args)
    except (PackError, CheckpointError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    runner.warm_up()
    found = figures(play(runner, held_out, zoom=args.zoom))
    print(f"{label(runner)}: {len(held_out)} photographs held out\n\n{table(found)}")
    if args.json is not None:
        context = {"model": label(runner), "weights": runner.fingerprint, "photographs": len(held_out)}
        args.json.write_text(json.dumps(context | asdict(found), indent=1) + "\n")
    return 0


def _rows(named: Iterable[tuple[str, Played]]) -> dict[str, Row]:
    lines: dict[str, list[Played]] = {}
    for name, x in named:
        lines.setdefault(name, []).append(x)
    return {name: _row(np.array([x.session.ious for x in line])) for name, line in lines.items()}


def _row(ious: npt.NDArray[np.float64]) -> Row:
    at_1, at_3, at_5 = (float(ious[:, n - 1].mean()) for n in CLICKS)
    return Row(len(ious), at_1, at_3, at_5, clicks_to(ious, 0.85), clicks_to(ious, 0.90))


def _cells(name: str, row: Row) -> tuple[str, ...]:
    means = (f"{x:.3f}" for x in (row.miou_at_1, row.miou_at_3, row.miou_at_5))
    return (name, str(row.objects), *means, f"{row.noc_85:.2f}", f"{row.noc_90:.2f}")


def _bin_cells(found: Bin) -> tuple[str, ...]:
    return (str(found.masks), *(f"{x:.3f}" if found.masks else "" for x in (found.predicted, found.true)))


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


if __name__ == "__main__":
    sys.exit(main())
