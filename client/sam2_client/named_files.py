"""The files that a command's arguments name: files, folders and patterns. Does not read them."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sam2_client.messages import complain, named

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".avif"}
"""Suffixes of the pictures that commands read from a folder."""


class NamedFile(NamedTuple):
    """A file, and the folder that the argument names; its own folder if the argument names no folder."""

    path: Path
    root: Path


def named_files(arguments: Sequence[str], *, suffixes: set[str]) -> Iterator[NamedFile]:
    """Yield the files that the arguments name. An argument is a file, a folder (all files below it with one of the
    suffixes), or a pattern, for shells that do not expand them. Raises OSError for a pattern without a match.
    """
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            below = sorted(each for each in path.rglob("*") if each.is_file())
            yield from (NamedFile(each, path) for each in below if each.suffix.lower() in suffixes)
            others = [each for each in below if each.suffix.lower() not in suffixes]
            tell_left_out(others, why=f"their names do not end in {', '.join(sorted(suffixes))}")
        elif path.exists() or not glob.has_magic(argument):
            yield NamedFile(path, path.parent)
        elif matches := sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207  # patterns may be absolute
            yield from (NamedFile(match, match.parent) for match in map(Path, matches))
        else:
            raise FileNotFoundError(f"no file matches {argument}")


def tell_left_out(files: Sequence[Path], *, why: str) -> None:
    """Say which files are not read."""
    if files:
        complain(f"left out {named(files)}: {why}")
