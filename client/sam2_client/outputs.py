"""Which files a command may write: never one of its pictures, as a shell makes of `--coco photos/*.jpg`.

Does not know what is written.
"""

import io
import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from sam2_client.data_set_arguments import Misuse

_REPLY = re.compile(rb'\s*\{\s*"(?:picture|image_id)"')
"""How `sam2 decode` and the service begin a reply."""
_START = 1024
"""Bytes."""


def require_data_set(option: str, output: Path, *, is_long: bool = False) -> None:
    """Raise Misuse if a data set cannot be written there, or if that would replace a file that is none.

    `is_long` says that what is done is kept in a file beside it, which devices and pipes do not have.
    """
    if output.is_dir():
        raise Misuse(f"{option} {output} is a folder: name a file")
    require_folder(option, output)
    if not output.exists():
        return
    if not output.is_file():
        if is_long:
            raise Misuse(
                f"{option} {output} is not a file, and the run keeps what is done beside it: name a file"
            )
        return
    with output.open("rb") as file:
        start = file.read(_START)
    if b"\0" in start or _REPLY.match(start):  # text has no zeros, all pictures and videos have
        raise Misuse(
            f"{option} {output} exists and is not a data set, so it is not replaced: name another file"
        )


def require_folder(option: str, output: Path) -> None:
    """Raise Misuse if a file has no folder to be in: found out at the end, it would cost what is done by then."""
    if not output.parent.is_dir():
        raise Misuse(f"{option} {output}: there is no folder {output.parent}")


def require_another(
    option: str, output: Path, inputs: Iterable[Path], *, what: str = "what the command reads"
) -> None:
    """Raise Misuse if writing there would replace one of the files that the command reads."""
    if output.exists() and any(each.exists() and output.samefile(each) for each in inputs):
        raise Misuse(f"{option} {output} is {what}: name another file")


def require_picture(option: str, output: Path, *, mode: str) -> None:
    """Raise Misuse if the kind of picture that the name says cannot hold a mode of Pillow, such as RGBA."""
    try:
        Image.new(mode, (16, 16)).save(io.BytesIO(), picture_kind(output))
    except (KeyError, OSError, ValueError) as error:
        raise Misuse(
            f"{option} {output}: this cannot be written as {output.suffix or 'a file without a suffix'}; "
            "use .png"
        ) from error


def picture_kind(output: Path) -> str:
    """Return Pillow's name for the kind of picture that a file's suffix says; the suffix itself if it has none."""
    suffix = output.suffix
    return Image.registered_extensions().get(suffix.lower(), suffix)
