"""Works through many pictures, a few at a time, and keeps what is done in a journal.

Does not know what is done with a picture.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sam2_client.client import Client
from sam2_client.errors import ConnectionFailed, Unauthorized
from sam2_client.images import Model, Progress
from sam2_client.journal import Journal
from sam2_client.messages import complain
from sam2_client.sync_image import Image
from sam2_client.workers import until_admitted, worked


def stamp(file: Path) -> list[Any]:
    """Return what tells whether a file is the one that was read before. Raises OSError."""
    facts = file.stat()
    return [str(file), facts.st_size, facts.st_mtime_ns]


class OtherModel(Exception):
    """The server was started with another model since the run began."""


def embedded(client: Client, file: Path, *, model: Model) -> Image:
    """Embed a picture. Raises OtherModel if it is no longer done by the model that the run began with."""
    image = client.embed(file)
    if image.model != model.name:
        raise OtherModel(
            f"the server has another model now, {image.model}; {model.name} began this run, which ends here"
        )
    return image


def work_through(
    client: Client,
    keys: Sequence[str],
    work: Callable[[str], dict[str, Any]],
    journal: Journal,
    *,
    concurrency: int,
    shown: bool,
) -> Generator[tuple[str, dict[str, Any] | Exception], None, None]:
    """Do the work of each key that the journal does not have. Yield each one's result, in the order of the ends.

    An exception is the result of its picture, and the others continue. Raises Sam2Error if the server itself is
    gone, or refuses the key, and ValueError if it has another model: what is done stays in the journal.
    """
    left = [key for key in keys if key not in journal]
    ended = worked(left, until_admitted(work), concurrency=concurrency)
    try:
        with (
            Progress(len(keys), shown=shown and bool(left), done=len(keys) - len(left)) as bar,
            closing(ended),
        ):
            for key, result in ended:
                if isinstance(result, Exception):
                    if isinstance(result, OtherModel):
                        raise ValueError(str(result)) from result
                    if isinstance(result, ConnectionFailed | Unauthorized):
                        client.model()  # raises if it is not this picture alone that failed
                else:
                    journal[key] = result
                bar.count(result if isinstance(result, Exception) else None)
                yield key, result
    except BaseException:
        if done := sum(key in journal for key in keys):
            complain(
                f"stopped: {done} of {len(keys)} pictures are done and kept in {journal.path}; the same command "
                "goes on from there"
            )
        raise


def close(journal: Journal, *, failed: int, of: int) -> None:
    """Delete the journal of a complete run. If pictures failed, keep it for the next one, and say so."""
    if not failed:
        journal.delete()
    elif len(journal):
        complain(
            f"{failed} of {of} pictures failed; the same command tries only these again, because {journal.path} "
            "has the others"
        )
