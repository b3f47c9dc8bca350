"""`python -m model.training.export STATE [STATE ...] OUT.safetensors`: averaged weights of a run, to be served.

Half precision; the metadata of the file says what the weights are and how they were made. For several runs it
is the mean of their weights ("Model soups", arXiv 2203.05482): if one run started from the weights of the
other, they may lie in one basin, where the mean may be better than either. Does not know about training itself.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.training.state import FILE_NAME, State


def export(states: Sequence[State], path: Path) -> None:
    """Write the moving average of a run's weights, or the mean of several runs', to `path`.

    In float16, buffers too, which are small numbers. Raises ValueError where a weight does not fit float16, and for
    runs of different models.
    """
    (variant, *others) = {state.plan.variant for state in states}
    if others:
        raise ValueError(f"not runs of one model: {', '.join(sorted([variant, *others]))}")
    averages = [state.average for state in states]
    weights = {
        name: torch.stack([x[name] for x in averages]).mean(0).half().contiguous() for name in averages[0]
    }
    broken = [name for name, x in weights.items() if not x.isfinite().all()]
    if broken:
        raise ValueError(f"not finite in float16: {', '.join(broken)}")
    metadata = {
        "model": variant,
        "runs": json.dumps([{"step": state.step, "plan": asdict(state.plan)} for state in states]),
        "licence": "Apache-2.0",
    }
    save_file(weights, path, metadata=metadata)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights to begin another run with, float32: out of a run's state or of an exported file.

    Raises ValueError for a file that is neither, and OSError where there is none.
    """
    if path.suffix != ".safetensors":
        return State.read(path / FILE_NAME if path.is_dir() else path).average
    try:
        return {name: x.float() for name, x in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is no file of weights: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 where there is nothing to export."""
    parser = argparse.ArgumentParser(prog="python -m model.training.export", description=main.__doc__)
    parser.add_argument(
        "states", type=Path, nargs="+", metavar="STATE", help="a run's folder, or the state.pt in it"
    )
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    said = parser.parse_args(arguments)
    paths = [path / FILE_NAME if path.is_dir() else path for path in said.states]
    try:
        states = [State.read(path) for path in paths]
        export(states, said.out)
    except (OSError, ValueError) as error:
        print(f"{', '.join(map(str, paths))} cannot be exported: {error}", file=sys.stderr)
        return 1
    steps = " and ".join(f"{state.step:,}" for state in states)
    parameters = sum(x.numel() for x in states[0].average.values())
    size = said.out.stat().st_size
    print(f"{said.out}: step {steps}, {parameters:,} parameters, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
