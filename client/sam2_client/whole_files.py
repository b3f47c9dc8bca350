"""Writes a file at once or not at all: a cut or a full disk leaves what was there.

Does not know what is written.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sam2_client.messages import naming


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Yield where to write. What is there at the end takes the file's place, unless something is raised.

    Each writer has a place of its own: of two at once, the last one's file stays. A link stays a link. What is no
    file, such as a pipe, is written itself. Raises OSError, which names `file`.
    """
    if _is_special(file):
        with naming(file):
            yield file
        return
    place, new = _beside(file)
    try:
        with naming(file):
            yield new
            new.replace(place)
    except OSError as error:
        if error.filename == str(new):
            error.filename = str(file)
        raise
    finally:
        new.unlink(missing_ok=True)


def require_writable(file: Path) -> None:
    """Raise OSError if the file could not be written."""
    if not _is_special(file):
        _, new = _beside(file)
        try:
            new.touch()
            new.unlink()
        except OSError as error:
            error.filename = str(file)
            raise


def _is_special(file: Path) -> bool:
    """Whether it is no file that can be replaced, such as /dev/stdout, which may link to a pipe without a path."""
    return file.exists() and not file.is_file()


def _beside(file: Path) -> tuple[Path, Path]:
    """Return where a file is, as a link stays one, and where it is until it is complete."""
    place = file.resolve()
    return place, place.with_name(f"{place.name}.{secrets.token_hex(3)}.new")
