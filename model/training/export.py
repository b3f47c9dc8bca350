"""`python -m model.training.export STATE OUT.safetensors`: the averaged weights of a run, ready to be served.

Half precision, with what they are and how they came about in the file's metadata. Knows nothing of training itself.
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


def export(state: State, path: Path) -> None:
    """Write the moving average of a run's weights to `path`, in float16; buffers too, which are small numbers.

    Raises ValueError where a weight does not fit float16.
    """
    weights = {name: x.half().contiguous() for name, x in state.average.items()}
    broken = [name for name, x in weights.items() if not x.isfinite().all()]
    if broken:
        raise ValueError(f"not finite in float16: {', '.join(broken)}")
    metadata = {
        "model": state.plan.variant,
        "step": str(state.step),
        "plan": json.dumps(asdict(state.plan)),
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
    parser.add_argument("state", type=Path, metavar="STATE", help="a run's folder, or the state.pt in it")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    said = parser.parse_args(arguments)
    path = said.state / FILE_NAME if said.state.is_dir() else said.state
    try:
        state = State.read(path)
        export(state, said.out)
    except (OSError, ValueError) as error:
        print(f"{path} cannot be exported: {error}", file=sys.stderr)
        return 1
    parameters = sum(x.numel() for x in state.average.values())
    size = said.out.stat().st_size
    print(f"{said.out}: step {state.step:,}, {parameters:,} parameters, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
