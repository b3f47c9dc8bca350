"""Reads released files into parameters, strictly, with a fingerprint of the weights.

Does not know the network's code: it fills what `state_dict()` lists. download.py gets the files.
"""

import logging
import math
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.errors import CheckpointError
from model.network.config import BUILTIN, VARIANTS

logger = logging.getLogger(__name__)

VIDEO_MEMORY_PREFIXES = (
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "mask_downsample.",
    "memory_attention.",
    "memory_encoder.",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
)
"""Parameters of released files that only video tracking needs; skipped on purpose."""

_POSITIONS = ("image_encoder.trunk.pos_embed", "image_encoder.trunk.pos_embed_window")
"""Resized before they are added, and rounded then; like buffers, they stay in float32."""

_ONLY_IN_RELEASE_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.")
_PATCH_EMBEDDING = "image_encoder.trunk.patch_embed.proj.weight"
_BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"(embed|embed_window|embeddings\.\d+|tokens?)(\.weight)?$")
_NAMES_SHOWN = 3

Shape = tuple[int, ...]


def load_parameters(
    module: nn.Module, path: Path, *, variant: str, device: torch.device, dtype: torch.dtype
) -> str:
    """Fill `module`, built on the meta device, from a released .pt or a .safetensors file.

    Every parameter of `module.state_dict()` becomes fresh memory of `device` and `dtype`; buffers and position
    embeddings stay in float32, because half precision would blur the positions that they encode. The file is
    mapped and copied one parameter at a time, so the weights are in memory once, and nothing refers to the file
    afterwards. (A .pt older than torch 1.6 is no archive and cannot be mapped: it is read whole.) The module is
    untouched where this raises.

    Returns the fingerprint: SHA-256 (hex) over name, shape and float32 values of the parameters used, in
    order of name. It is that of the weights alone: file format, `device` and `dtype` do not change it.

    Raises CheckpointError when the file cannot be read, holds anything but tensors, or does not fit.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    exact_names = {*_POSITIONS, *(name for name, _ in module.named_buffers())}
    found = _read(path)
    _check_fit(found, expected, path=path, variant=variant)
    digest = sha256()
    parameters: dict[str, Tensor] = {}
    for name in sorted(expected):
        values = found.pop(name).detach()
        exact = values.to(torch.float32).contiguous()
        digest.update(f"{name} {tuple(exact.shape)}\n".encode())
        digest.update(exact.view(-1).numpy().data)
        parameters[name] = values.to(
            device=device,
            dtype=torch.float32 if name in exact_names else dtype,
            copy=True,
            memory_format=torch.contiguous_format,
        )
    module.load_state_dict(parameters, assign=True)
    fingerprint = digest.hexdigest()
    logger.info("%s: %s parameters of %s, weights %.12s", path, _count(module), variant, fingerprint)
    return fingerprint


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


def identify(shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """Name the variants that parameters of these names and shapes can belong to; none if they are unknown.

    The trunk's width and depth tell the size. The video-memory parts tell the release; without any, a file
    can be of either. The built-in model has none, and a trunk of its own.
    """
    patches = shapes.get(_PATCH_EMBEDDING)
    blocks = {match[1] for match in map(_BLOCK.match, shapes) if match}
    releases = _releases(shapes)
    return tuple(
        variant
        for variant, config in VARIANTS.items()
        if patches
        and patches[0] == config.trunk.embed_dim
        and len(blocks) == config.trunk.depth
        and variant.partition("_")[0] in releases
    )


def _releases(names: Mapping[str, object]) -> tuple[str, ...]:
    if any(name.startswith(_ONLY_IN_RELEASE_2_1) for name in names):
        return ("sam2.1",)
    if any(name.startswith(VIDEO_MEMORY_PREFIXES) for name in names):
        return ("sam2",)
    return ("sam2.1", "sam2", BUILTIN)


def _read(path: Path) -> dict[str, Tensor]:
    """Name to tensor, the values still in the mapped file."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise OSError("it is not a regular file")
        content = _parse(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}. "
            "Set SAM2_CHECKPOINT to a released .pt or a .safetensors file."
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds something besides tensors, or is damaged. Reading on could run code that came "
            "with the file, so it is refused. Use a released .pt, or save the weights alone as .safetensors."
        ) from error
    except Exception as error:  # a damaged file can raise anything at all
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{path} is not a checkpoint, or is damaged or truncated ({reason}). "
            "Get it again, or set SAM2_CHECKPOINT to a released .pt or a .safetensors file."
        ) from error
    return _tensors_of(content, path)


def _parse(path: Path) -> object:
    """Read the file. Its first bytes decide the format, not its name."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":  # eight bytes of length, then a header in JSON
        return load_file(path)
    if head.startswith(b"PK\x03\x04"):
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    if head.startswith(b"\x80"):  # a bare pickle, as torch.save wrote before version 1.6
        return torch.load(path, weights_only=True, map_location="cpu")
    raise ValueError(f"it begins with {head!r}")


def _tensors_of(content: object, path: Path) -> dict[str, Tensor]:
    """Take the tensors out of what a .pt holds: {"model": weights, ...}, or the weights alone."""
    weights = content.get("model", content) if isinstance(content, Mapping) else content
    tensors = (
        {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}
        if isinstance(weights, Mapping)
        else {}
    )
    if not tensors:
        what = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            what = f"the keys {_some([str(key) for key in content])}"
        raise CheckpointError(
            f'{path} holds no weights. Expected a state dict, alone or under "model"; found {what}.'
        )
    return tensors


def _check_fit(
    found: Mapping[str, Tensor], expected: Mapping[str, Shape], *, path: Path, variant: str
) -> None:
    """Raise CheckpointError with everything that is wrong, unless the file has exactly what the model needs."""
    missing = [name for name in expected if name not in found]
    unexpected = [
        name for name in found if name not in expected and not name.startswith(VIDEO_MEMORY_PREFIXES)
    ]
    misshapen = [name for name in expected if name in found and not _usable(found[name], expected[name])]
    candidates = identify({name: tuple(tensor.shape) for name, tensor in found.items()})
    problems = [
        f"{len(names)} {problem}: {_some(names, show)}"
        for names, problem, show in (
            (missing, "missing", lambda name: f"{name} {list(expected[name])}"),
            (unexpected, "unexpected", lambda name: f"{name} {list(found[name].shape)}"),
            (misshapen, "of another shape", lambda name: _contrast(name, found[name], expected[name])),
        )
        if names
    ]
    if not problems and (not candidates or variant in candidates):
        return
    if not problems:
        problems = ["the image half fits, but the video-memory parts are of another release"]
    raise CheckpointError(
        f"{path} does not fit {variant}. " + "; ".join(problems) + f". {_hint(candidates, variant)}"
    )


def _usable(tensor: Tensor, shape: Shape) -> bool:
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.is_floating_point()
    return plain and tuple(tensor.shape) == shape


def _contrast(name: str, tensor: Tensor, shape: Shape) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{name} is {list(tensor.shape)} {kind} in the file, {list(shape)} floating point in the model"


def _hint(candidates: Sequence[str], variant: str) -> str:
    if not candidates:
        known = "none of the released SAM 2 models nor the built-in one"
        return f"It looks like {known}, whose parameter names are expected."
    if variant in candidates:
        return f"Its trunk is that of {variant}: it may be damaged, or changed since the release."
    return f"It looks like {' or '.join(candidates)}: set SAM2_MODEL={candidates[0]}."


def _some(names: Sequence[str], show: Callable[[str], str] = str) -> str:
    shown = [show(name) for name in names[:_NAMES_SHOWN]]
    return ", ".join(shown + ["..."] * (len(names) > _NAMES_SHOWN))


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
