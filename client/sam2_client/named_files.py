"""The files that a command's arguments name: files, folders and patterns. Does not read them."""

import glob
import os
from collections.abc import Iterator, Sequence, Set
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from sam2_client.messages import complain, named, why

_JPEG = {".jpg", ".jpeg", ".jpe", ".jfif"}
PICTURE_SUFFIXES = _JPEG | {".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".avif"}
"""Suffixes of the pictures that commands read from a folder."""


class NamedFile(NamedTuple):
    """A file, and the folder that the argument names; its own folder if the argument names no folder."""

    path: Path
    root: Path


def named_files(
    arguments: Sequence[str], *, suffixes: set[str], read_otherwise: Set[str] = frozenset()
) -> Iterator[NamedFile]:
    """Yield the files that the arguments name. An argument is a file, a folder (all files below it with one of the
    suffixes), or a pattern, for shells that do not expand them. Other files of a folder get a line, but for those
    with a suffix of what the command reads in another way. Raises OSError for a pattern without a match.
    """
    for argument in arguments:
        path = Path(argument)
        if path.exists() or not glob.has_magic(argument):
            yield from _at(path, suffixes, read_otherwise)
        elif matches := sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207  # patterns may be absolute
            found = chain.from_iterable(_at(Path(match), suffixes, read_otherwise) for match in matches)
            by_path = {file.path: file for file in found}  # `**` matches folders and what is in them
            yield from by_path.values()
        else:
            raise FileNotFoundError(f"no file matches {argument}")


def files_below(
    folder: Path, *, suffixes: set[str], tell_others: bool = False, read_otherwise: Set[str] = frozenset()
) -> list[Path]:
    """Return the files below a folder with one of the suffixes, in order. Folders that are linked to count too.

    What is hidden, as by macOS and by tools for their own use, is left out, with a line. So is a folder that cannot
    be read, and a link to nothing, as git-annex has for what is not fetched. `tell_others` says that files with
    other suffixes get a line, but for those `read_otherwise`.
    """
    found: list[Path] = []
    hidden: list[Path] = []
    absent: list[Path] = []
    known = set(folder.resolve().parents)  # a link up is not meant
    links = [folder]
    for link in links:  # a folder is read at its own place, and through a link only if it has none
        for at, folders, files in os.walk(link, onerror=_tell_unread):
            place = Path(at)
            if (real := place.resolve()) in known:
                folders.clear()
                continue
            known.add(real)
            hidden += [place / name for name in folders if _is_hidden(name)]
            folders[:] = [name for name in folders if not _is_hidden(name)]
            links += sorted(place / name for name in folders if (place / name).is_symlink())
            for file in map(place.joinpath, files):
                (found if file.is_file() else absent).append(file)
    named = sorted(each for each in found if each.suffix.lower() in suffixes)
    hidden += [each for each in named if _is_hidden(each.name)]
    tell_left_out(sorted(hidden), why="they are hidden; name them to read them all the same")
    lost = [each for each in absent if each.suffix.lower() in suffixes and not _is_hidden(each.name)]
    tell_left_out(sorted(lost), why="they are links to nothing, or no files")
    if tell_others:
        others = sorted(each for each in found if each.suffix.lower() not in suffixes | read_otherwise)
        tell_left_out(others, why=f"their names do not end in {', '.join(sorted(suffixes))}")
    return [each for each in named if not _is_hidden(each.name)]


def tell_left_out(files: Sequence[Path], *, why: str) -> None:
    """Say which files are not read."""
    if files:
        complain(f"left out {named(files)}: {why}")


def _at(path: Path, suffixes: set[str], read_otherwise: Set[str]) -> Iterator[NamedFile]:
    if path.is_dir():
        below = files_below(path, suffixes=suffixes, tell_others=True, read_otherwise=read_otherwise)
        yield from (NamedFile(each, path) for each in below)
    else:
        yield NamedFile(path, path.parent)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _tell_unread(error: OSError) -> None:
    complain(f"left out {error.filename}: {why(error)}")
