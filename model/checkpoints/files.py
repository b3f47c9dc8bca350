"""Reads files of weights, and folders that transformers saved, to tensors by name; runs no code that they hold.

Does not know which names a model needs.
"""

import json
import logging
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.errors import CheckpointError

logger = logging.getLogger(__name__)

WANTED = "a .pt, a .safetensors file, or a folder that transformers saved"

_IN_FOLDERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What transformers calls its weights, the first choice first; an index names the parts of one that is split."""

_WEIGHTS_KEYS = ("model", "state_dict", "model_state_dict")
"""Where training programs keep the weights beside all else: Meta's, Lightning's, and PyTorch's tutorials."""

_PLAIN = (
    "argparse.", "builtins.bool", "builtins.dict", "builtins.float", "builtins.frozenset", "builtins.int",
    "builtins.list", "builtins.range", "builtins.slice", "builtins.str", "builtins.tuple", "collections.",
    "datetime.", "decimal.", "enum.", "fractions.", "pathlib.", "types.SimpleNamespace", "uuid.",
)  # fmt: skip
"""Beginnings of names in Python's own library that are plain data, such as programs leave beside weights."""

_FILLED = {"collections.defaultdict": dict, "collections.deque": list}
"""Those that are filled item by item, and what takes the items."""

_NAMES_SHOWN = 3


class LeftAside:
    """Stands in for an object whose class is not even looked up. Takes what it was made of, and does nothing."""

    def __new__(cls, *_: object) -> "LeftAside":
        """Forget the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        """Forget the arguments."""

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read name to tensor, the values still in the mapped file.

    `path` is a .pt or .safetensors file, the index of a split one, or a folder as `save_pretrained` writes it.
    Raises CheckpointError when it cannot be read, is damaged, or would need code of its own to run.
    """
    try:
        path = _within(path)
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise OSError("it is not a regular file")
        content = _parse(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}. Set SAM2_CHECKPOINT to {WANTED}."
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds something besides tensors, or is damaged{_named_in(error)}. Reading on could run code "
            "that came with the file, so it is refused. Use a released .pt, or save the weights alone: "
            'torch.save({"model": model.state_dict()}, FILE).'
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can raise anything at all
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{path} is not a checkpoint, or is damaged or truncated ({reason}). "
            f"Get it again, or set SAM2_CHECKPOINT to {WANTED}."
        ) from error
    return _tensors_of(content, path)


def _within(path: Path) -> Path:
    """Return the file itself, or the one in a folder that holds its weights."""
    if not path.is_dir():
        return path
    for name in _IN_FOLDERS:
        if (path / name).is_file():
            return path / name
    others = sorted(each for each in path.iterdir() if each.suffix in (".pt", ".pth", ".safetensors"))
    if len(others) == 1:
        return others[0]
    has = f"several files of weights ({some([each.name for each in others])}): name one" if others else "none"
    raise OSError(f"it is not a regular file but a folder; of {', '.join(_IN_FOLDERS[:2])} it has {has}")


def _parse(path: Path) -> object:
    """Read the file. Its first bytes decide the format, not its name."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":  # eight bytes of length, then a header in JSON
        return load_file(path)
    if head.startswith(b"PK\x03\x04"):
        return _load_archive(path)
    if head.startswith(b"\x80"):  # a bare pickle, as torch.save wrote before version 1.6
        return torch.load(path, weights_only=True, map_location="cpu")
    if path.name.endswith(".index.json"):
        return _load_parts(path)
    if head.startswith(b"version h"):
        raise ValueError(
            "it is a pointer of Git LFS, not the file itself: run `git lfs pull` where it came from"
        )
    raise ValueError(f"it begins with {head!r}")


def _load_archive(path: Path) -> object:
    """Read what torch.save wrote, with stand-ins for objects of training programs.

    The names of their classes are read first, without running anything; then torch's restricted unpickler gets
    stand-ins for them. What is left it refuses, above all functions of Python's own library: nothing would run,
    but a file that asks for them is not to be trusted.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    aside = sorted(name for name in names if not _may_act(name))
    if aside:
        logger.info("%s: left aside beside the weights: %s", path, some(aside))
    with torch.serialization.safe_globals([(_stand_in(name), name) for name in aside]):
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)


def _may_act(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names and not name.startswith(_PLAIN)


def _stand_in(name: str) -> type:
    if (kind := _FILLED.get(name)) is not None:
        return type(name, (_Empty,), {"kind": kind})
    return type(name, (LeftAside,), {})


class _Empty:
    """Makes an empty dict or list where one of its relatives was."""

    kind: type

    def __new__(cls, *_: object) -> object:  # type: ignore[misc]  # on purpose no instance of this
        """Return an empty one; a defaultdict's default is forgotten."""
        return cls.kind()


def _load_parts(index: Path) -> dict[str, object]:
    """Read all files that an index of transformers names, which lie beside it."""
    weight_map = json.loads(index.read_bytes())["weight_map"]
    names = sorted(set(weight_map.values()))
    if strange := [name for name in names if Path(name).name != name]:
        raise ValueError(f"it names files outside its folder: {some(strange)}")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise ValueError(f"{len(missing)} of its {len(names)} parts are not there: {some(missing)}")
    content: dict[str, object] = {}
    for name in names:
        content |= _tensors_of(_parse(index.parent / name), index.parent / name)
    return content


def _tensors_of(content: object, path: Path) -> dict[str, Tensor]:
    """Take the tensors out of what a file holds: {"model": weights, ...}, or the weights alone."""
    for weights in _places(content):
        tensors = {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    what = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        what = f"the keys {some([str(key) for key in content])}"
        modules = [key for key in _WEIGHTS_KEYS if isinstance(content.get(key), LeftAside)]
        if modules:
            what = (
                f'a {type(content[modules[0]]).__name__} under "{modules[0]}"; save its state_dict() instead'
            )
    raise CheckpointError(
        f'{path} holds no weights. Expected a state dict, alone or under "model"; found {what}.'
    )


def _places(content: object) -> list[Mapping[object, object]]:
    if not isinstance(content, Mapping):
        return []
    inner = [content.get(key) for key in _WEIGHTS_KEYS]
    return [*(each for each in inner if isinstance(each, Mapping)), content]


def _named_in(error: pickle.UnpicklingError) -> str:
    """Say which name the restricted unpickler has refused, where torch's message has it."""
    _, found, rest = str(error).partition("GLOBAL ")
    return f" ({rest.split()[0]})" if found and rest else ""


def some(names: list[str]) -> str:
    """A few of the names, and a sign that there are more."""
    return ", ".join(names[:_NAMES_SHOWN] + ["..."] * (len(names) > _NAMES_SHOWN))
