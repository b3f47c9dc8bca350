"""Networks without values, weights that fit them or a released model, and files of these in every format."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checkpoints.parameters import NOTHING, load_parameters
from model.checkpoints.variants import VIDEO_MEMORY_PREFIXES

REPOSITORY = Path(__file__).parents[3]
GOLDEN = REPOSITORY / "tests" / "golden"
CPU = torch.device("cpu")


class Box(nn.Module):
    """A stand-in network: whatever parameters, and one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.register_buffer("grid", torch.zeros(1, 4))


class Network(nn.Module):
    """A network with parameters of the given names and shapes."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *folders, leaf = name.split(".")
            module: nn.Module = self
            for folder in folders:
                if folder not in module._modules:
                    module.add_module(folder, nn.Module())
                module = module.get_submodule(folder)
            module.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))


def on_meta(shapes: Mapping[str, tuple[int, ...]] | None = None) -> nn.Module:
    with torch.device("meta"):
        return Box() if shapes is None else Network(shapes)


def box_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(t.shape, generator=generator) for name, t in on_meta().state_dict().items()}


def released_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    shapes = json.loads((GOLDEN / f"{variant}.json").read_text())["shapes"]
    return {name: tuple(shape) for name, shape in shapes.items()}


def image_half(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if not name.startswith(VIDEO_MEMORY_PREFIXES)}


def hollow(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Zeros of any shape that take a few bytes on disk."""
    zero = torch.zeros(1)
    return {name: zero.expand(shape) for name, shape in shapes.items()}


def load(
    module: nn.Module,
    path: Path,
    *,
    variant: str = "sam2.1_hiera_tiny",
    beside: Mapping[str, tuple[int, ...]] = NOTHING,
) -> str:
    return load_parameters(module, path, variant=variant, device=CPU, dtype=torch.float32, beside=beside)


def saved(weights: object, path: Path) -> Path:
    torch.save(weights, path)
    return path


def write_released(weights: dict[str, Tensor], path: Path) -> None:
    torch.save({"model": weights}, path)


def write_bare(weights: dict[str, Tensor], path: Path) -> None:
    torch.save(weights, path)


def write_before_archives(weights: dict[str, Tensor], path: Path) -> None:
    torch.save({"model": weights}, path, _use_new_zipfile_serialization=False)


def write_safetensors(weights: dict[str, Tensor], path: Path) -> None:
    save_file(weights, path)


FORMATS = [write_released, write_bare, write_before_archives, write_safetensors]
