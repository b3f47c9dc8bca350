"""`python -m model.training.export STATE [STATE ...] OUT.safetensors`: averaged weights of a run, to be served.

Half precision; the metadata of the file says what the weights are and how they were made. For several runs or
exported files it is the mean of their weights ("Model soups", arXiv 2203.05482): if one run started from the
weights of the other, they may lie in one basin, where the mean may be better than either. Does not know about
training itself.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.training.state import FILE_NAME, State


@dataclass(frozen=True)
class Weights:
    """Weights and where they come from."""

    variant: str
    tensors: dict[str, Tensor]
    """float32."""
    runs: list[dict[str, Any]]
    """The last step and the plan of each run whose mean they are."""

    @classmethod
    def of(cls, state: State) -> "Weights":
        """The moving average of a run's weights."""
        return cls(state.plan.variant, state.average, [{"step": state.step, "plan": asdict(state.plan)}])

    @classmethod
    def read(cls, path: Path) -> "Weights":
        """Those of a run's state or of an exported file. Raises as read_weights."""
        if path.suffix != ".safetensors":
            return cls.of(State.read(path))
        tensors = read_weights(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if not {"model", "runs"} <= metadata.keys():
            raise ValueError(f"{path} does not say which runs it is from, as an exported file does")
        return cls(metadata["model"], tensors, json.loads(metadata["runs"]))


def export(parts: Sequence[Weights], path: Path) -> None:
    """Write the mean of some weights to `path`.

    In float16, buffers too, which are small numbers. Raises ValueError where a weight does not fit float16, and for
    weights of different models, and OSError where the file cannot be written.
    """
    (variant, *others) = {part.variant for part in parts}
    if others:
        raise ValueError(f"not weights of one model: {', '.join(sorted([variant, *others]))}")
    weights = {
        name: torch.stack([part.tensors[name] for part in parts]).mean(0).half().contiguous()
        for name in parts[0].tensors
    }
    broken = [name for name, x in weights.items() if not x.isfinite().all()]
    if broken:
        raise ValueError(f"not finite in float16: {', '.join(broken)}")
    runs = [run for part in parts for run in part.runs]
    metadata = {"model": variant, "runs": json.dumps(runs), "licence": "Apache-2.0"}
    try:
        save_file(weights, path, metadata=metadata)
    except SafetensorError as error:  # which OSError is none of
        raise OSError(f"{path} cannot be written: {error}") from error


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
    parser = argparse.ArgumentParser(
        prog="python -m model.training.export",
        description="Write weights to serve, in half precision: those of a run, or the mean of several.",
    )
    parser.add_argument(
        "states",
        type=Path,
        nargs="+",
        metavar="STATE",
        help="a run's folder, the state.pt in it, or an exported file",
    )
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    args = parser.parse_args(arguments)
    paths = [path / FILE_NAME if path.is_dir() else path for path in args.states]
    try:
        parts = [Weights.read(path) for path in paths]
        export(parts, args.out)
    except (OSError, ValueError) as error:
        print(f"{', '.join(map(str, paths))} cannot be exported: {error}", file=sys.stderr)
        return 1
    steps = " and ".join(f"{run['step']:,}" for part in parts for run in part.runs)
    parameters = sum(x.numel() for x in parts[0].tensors.values())
    size = args.out.stat().st_size
    print(f"{args.out}: step {steps}, {parameters:,} parameters, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
