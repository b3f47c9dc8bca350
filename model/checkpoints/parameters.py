"""Reads files of weights into parameters, strictly, with a fingerprint of the weights.

Does not know the network's code: it fills what `state_dict()` lists. files.py knows the formats, names.py the
names, variants.py which model they are of; download.py gets the released files.
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Protocol
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from model.checkpoints.files import read_tensors, some
from model.checkpoints.names import networks_in, with_released_names
from model.checkpoints.transformers_config import check_config
from model.checkpoints.variants import Shape, describe_trunk, identify
from model.errors import CheckpointError

logger = logging.getLogger(__name__)

_POSITIONS = ("image_encoder.trunk.pos_embed", "image_encoder.trunk.pos_embed_window")
"""Resized before they are added, and rounded then; like buffers, they stay in float32."""

NOTHING: Mapping[str, Shape] = MappingProxyType({})

_EMBEDDING = re.compile(r"(embed|embed_window|embeddings\.\d+|tokens?)(\.weight)?$")

_ADAPTER = ".lora_"


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes."""


def load_parameters(
    module: nn.Module,
    path: Path,
    *,
    variant: str,
    device: torch.device,
    dtype: torch.dtype,
    beside: Mapping[str, Shape] = NOTHING,
) -> str:
    """Fill `module`, built on the meta device, from a file or folder of weights: see files.py and names.py.

    Every parameter of `module.state_dict()` becomes fresh memory of `device` and `dtype`; buffers and position
    embeddings stay in float32, because half precision would blur the positions that they encode. The file is
    mapped and copied one parameter at a time, so the weights are in memory once, and nothing refers to the file
    afterwards. (A .pt older than torch 1.6 is no archive and cannot be mapped: it is read whole.) The module is
    untouched where this raises.

    `beside` are the names and shapes of another module's parameters, which the file may hold too: all of them or
    none. No other name is accepted.

    Returns the fingerprint: SHA-256 (hex) over released name, shape and float32 values of the parameters used, in
    order of name. It is that of the weights alone: file format, names in the file, `device` and `dtype` do not
    change it.

    Raises CheckpointError when the file cannot be read, holds anything but tensors, does not fit, or has values
    that are not finite, of which every mask would come out empty without a word.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    exact_names = {*_POSITIONS, *(name for name, _ in module.named_buffers())}
    tensors = read_tensors(path)
    found, is_of_transformers = with_released_names(tensors)
    _check_fit(found, expected, beside, path=path, variant=variant)
    if is_of_transformers:
        check_config(path, variant=variant)
    digest = sha256()
    parameters: dict[str, Tensor] = {}
    broken: list[str] = []
    too_large: list[str] = []
    for name in sorted(expected):
        values = found.pop(name).detach()
        _add(digest, name, values)
        parameters[name] = values.to(
            device=device,
            dtype=torch.float32 if name in exact_names else dtype,
            copy=True,
            memory_format=torch.contiguous_format,
        )
        if not parameters[name].isfinite().all():
            (too_large if values.float().isfinite().all() else broken).append(name)
    _check_values(path, broken, too_large, dtype=dtype)
    module.load_state_dict(parameters, assign=True)
    used, *others = networks_in(tensors) or [""]
    if others:
        logger.warning(
            "%s holds several networks; the one whose names begin with %r is used, not %s. Save the wanted one "
            "alone to use another.",
            path,
            used,
            ", ".join(map(repr, others)),
        )
    fingerprint = digest.hexdigest()
    logger.info("%s: %s parameters of %s, weights %.12s", path, _count(module), variant, fingerprint)
    return fingerprint


def shapes_of(module: nn.Module) -> dict[str, Shape]:
    """Names and shapes of a module's parameters, which may lie on the meta device."""
    return _shapes(module.state_dict())


def fingerprint_of(path: Path, names: Iterable[str]) -> str:
    """The fingerprint that `load_parameters` gave to these parameters of a file, as it is now.

    Raises CheckpointError if the file cannot be read or lacks one of them.
    """
    found, _ = with_released_names(read_tensors(path))
    digest = sha256()
    for name in sorted(names):
        if name not in found:
            raise CheckpointError(f"{path} has no {name} any more.")
        _add(digest, name, found.pop(name).detach())
    return digest.hexdigest()


def untrained_parameters(
    module: nn.Module, *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> str:
    """Fill `module`, built on the meta device, with random weights for trying the wire and for load tests.

    The values depend on `seed` and each parameter's name and shape, not on the machine. They are scaled by
    fan-in so that activations stay of order 1 and masks are noise, neither empty nor full.

    Returns a fingerprint (64 hex digits) of the seed and the shapes.
    """
    digest = sha256(f"untrained-{seed}\n".encode())
    exact_names = {*_POSITIONS, *(name for name, _ in module.named_buffers())}
    parameters: dict[str, Tensor] = {}
    for name, tensor in sorted(module.state_dict().items()):
        shape = tuple(tensor.shape)
        digest.update(f"{name} {shape}\n".encode())
        values = torch.from_numpy(_untrained_values(name, shape, seed))
        parameters[name] = values.to(device=device, dtype=torch.float32 if name in exact_names else dtype)
    module.load_state_dict(parameters, assign=True)
    logger.info("random weights, seed %d: %s parameters, untrained", seed, _count(module))
    return digest.hexdigest()


def recognise(path: Path) -> tuple[str, ...]:
    """Name the variants that the weights in a file or folder can be of; none if they are unknown.

    Reads names and shapes alone. Raises CheckpointError when the file cannot be read.
    """
    tensors, _ = with_released_names(read_tensors(path))
    return identify(_shapes(tensors))


def _add(digest: Digest, name: str, values: Tensor) -> None:
    exact = values.to(torch.float32).contiguous()
    digest.update(f"{name} {tuple(exact.shape)}\n".encode())
    digest.update(exact.view(-1).numpy().data)


def _check_fit(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Shape],
    beside: Mapping[str, Shape],
    *,
    path: Path,
    variant: str,
) -> None:
    """Raise CheckpointError with everything that is wrong, unless the file has exactly what the model needs."""
    shapes = _shapes(found)
    candidates = identify(shapes)
    if candidates and variant not in candidates:
        raise CheckpointError(
            f"{path} does not fit {variant}, which SAM2_MODEL says: "
            f"{_what_differs(shapes, candidates, variant)}. It looks like {' or '.join(candidates)}: set "
            f"SAM2_MODEL={candidates[0]}, or SAM2_CHECKPOINT to weights of {variant}."
        )
    wanted = dict(expected)
    if any(name in found for name in beside):
        wanted |= beside
    missing = [name for name in wanted if name not in found]
    if beside and len(missing) == len(expected) and set(beside) <= set(found):
        raise CheckpointError(
            f"{path} holds the image half alone, without the parameters that track objects through videos, such as "
            f"{missing[0]}. Set SAM2_CHECKPOINT to weights that have them, as the released ones do."
        )
    unexpected = [name for name in found if name not in wanted]
    misshapen = [name for name in wanted if name in found and not _usable(found[name], wanted[name])]
    problems = [
        f"{len(names)} {problem}: {_few(names, show)}"
        for names, problem, show in (
            (missing, "missing", lambda name: f"{name} {list(wanted[name])}"),
            (unexpected, "unexpected", lambda name: f"{name} {list(found[name].shape)}"),
            (misshapen, "of another shape", lambda name: _contrast(name, found[name], wanted[name])),
        )
        if names
    ]
    if not problems:
        return
    known = (
        f"Its trunk is that of {variant}: it may be damaged, incomplete, or changed since the release."
        if candidates
        else f"It has {describe_trunk(shapes)}: it looks like none of the released SAM 2 models nor the built-in "
        "one, whose parameters are expected in Meta's names or in transformers'."
    )
    if any(_ADAPTER in name for name in unexpected):
        known = (
            "It has LoRA adapters beside the weights: merge them (with peft, model.merge_and_unload()), and save "
            "the state_dict() of what that gives."
        )
    raise CheckpointError(f"{path} does not fit {variant}. " + "; ".join(problems) + f". {known}")


def _check_values(path: Path, broken: list[str], too_large: list[str], *, dtype: torch.dtype) -> None:
    if broken:
        raise CheckpointError(
            f"{path} has values that are NaN or infinite, in {len(broken)} of its parameters: {some(broken)}. Its "
            "training has diverged, or the file is damaged: take an earlier checkpoint, or get it again."
        )
    if too_large:
        kind = str(dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{path} has values that are too large for {kind}, in {len(too_large)} of its parameters: "
            f"{some(too_large)}. Set SAM2_DTYPE=bfloat16 or float32."
        )


def _what_differs(shapes: Mapping[str, Shape], candidates: tuple[str, ...], variant: str) -> str:
    if any(name.partition("_")[2] == variant.partition("_")[2] for name in candidates):
        return "the image half fits, but the video-memory parts are of another release"
    return f"it has {describe_trunk(shapes)}"


def _usable(tensor: Tensor, shape: Shape) -> bool:
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.is_floating_point()
    return plain and tuple(tensor.shape) == shape


def _contrast(name: str, tensor: Tensor, shape: Shape) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{name} is {list(tensor.shape)} {kind} in the file, {list(shape)} floating point in the model"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _few(names: list[str], show: Callable[[str], str]) -> str:
    return some([show(name) for name in names])


def _count(module: nn.Module) -> str:
    return f"{sum(tensor.numel() for tensor in module.state_dict().values()):,}"


def _untrained_values(name: str, shape: Shape, seed: int) -> np.ndarray[Shape, np.dtype[np.float32]]:
    if len(shape) == 1 and not _EMBEDDING.search(name):
        return np.full(shape, 1.0 if name.endswith("weight") else 0.0, dtype=np.float32)
    generator = np.random.Generator(np.random.SFC64([seed, crc32(name.encode())]))
    values = generator.standard_normal(shape, dtype=np.float32)
    values *= np.float32(_untrained_deviation(name, shape))
    return values


def _untrained_deviation(name: str, shape: Shape) -> float:
    if "positional_encoding_gaussian_matrix" in name:
        return 1.0
    if _EMBEDDING.search(name):
        return 0.5
    if "output_upscaling" in name:  # ConvTranspose2d keeps its inputs first, and one tap reaches each pixel
        return 1 / math.sqrt(shape[0])
    return 1 / math.sqrt(math.prod(shape[1:]))
