"""`sam2 everything`: every object of many pictures, in one COCO data set.

Does not know how a run goes on after a cut.
"""

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from sam2_client import coco
from sam2_client.client import Client
from sam2_client.data_set_arguments import Misuse
from sam2_client.errors import ValidationFailed
from sam2_client.images import Model
from sam2_client.journal import Journal
from sam2_client.long_runs import close, embedded, stamp, work_through
from sam2_client.messages import complain, say, why
from sam2_client.named_files import PICTURE_SUFFIXES, named_files
from sam2_client.outputs import require_data_set

_OPTIONS = (
    "points_per_side",
    "pred_iou_thresh",
    "stability_score_thresh",
    "box_nms_thresh",
    "crop_n_layers",
    "min_mask_region_area",
    "max_masks",
)


def everything(client: Client, arguments: argparse.Namespace) -> bool:
    """Segment all pictures, write the data set, and return whether none failed."""
    if arguments.simplify and not arguments.polygons:
        raise Misuse("--simplify requires --polygons")
    require_data_set("--coco", arguments.coco, is_long=True)
    files = named_files(arguments.pictures, suffixes=PICTURE_SUFFIXES)
    pictures = {file.path.as_posix(): file.path for file in files}
    if not pictures:
        raise ValueError("there are no pictures in what is named")
    options = {name: value for name in _OPTIONS if (value := getattr(arguments, name)) is not None}
    simplify = arguments.simplify if arguments.polygons else None
    model = client.model()
    run = {"model": model.fingerprint, "options": options, "simplify": simplify}
    with Journal(arguments.coco, {"command": "everything", **run}) as journal:
        failed = _segment(client, model, pictures, options, journal, arguments)
        done = [key for key in pictures if key in journal]
        if not done:
            journal.delete()
            raise ValueError("nothing to write: no picture could be segmented")
        annotations = sum(len(journal[key]["masks"]) for key in done)
        coco.write(
            arguments.coco,
            {
                **coco.head(),
                "images": _images(journal, done),
                "annotations": _annotations(journal, done),
                "categories": [{"id": 1, "name": coco.DEFAULT_LABEL, "supercategory": ""}],
            },
        )
        close(journal, failed=failed, of=len(pictures))  # also if nobody reads the line that follows
        say(f"{arguments.coco}: {len(done)} images, {annotations} annotations, 1 categories")
    return not failed


def _segment(
    client: Client,
    model: Model,
    pictures: dict[str, Path],
    options: dict[str, Any],
    journal: Journal,
    arguments: argparse.Namespace,
) -> int:
    """Segment what the journal does not have. Return how many pictures failed. Raises Sam2Error for all of them."""
    for key in set(pictures) & set(journal):
        if not _is_unchanged(pictures[key], journal[key]["stamp"]):
            journal.forget(key)
    simplify = arguments.simplify if arguments.polygons else None
    ended = threading.Event()

    def end_if_ended(fraction: float, found: int) -> None:  # noqa: ARG001  # as they are called
        if ended.is_set():
            raise InterruptedError("the command was stopped")

    def segment(key: str) -> dict[str, Any]:
        read = stamp(pictures[key])
        image = embedded(client, pictures[key], model=model)
        masks = image.everything(**options, progress=end_if_ended)
        return {
            "stamp": read,
            "size": [image.width, image.height],
            "masks": [
                {
                    **coco.shape(mask, simplify=simplify),
                    "iscrowd": 0,
                    "score": mask.iou,
                    "stability": mask.stability,
                }
                for mask in masks
                if mask.area
            ],
        }

    failed = 0
    shown = len(pictures) > 1 and sys.stderr.isatty()
    results = work_through(
        client, list(pictures), segment, journal, concurrency=arguments.concurrency, shown=shown
    )
    try:
        with closing(results):
            for key, result in results:
                if isinstance(result, ValidationFailed):
                    raise result  # of the options, which are those of all pictures
                if isinstance(result, Exception):
                    failed += 1
                    complain(f"{key}: {why(result)}")
    finally:
        ended.set()
    return failed


def _is_unchanged(file: Path, before: Any) -> bool:
    try:
        return bool(stamp(file) == before)
    except OSError:
        return False


def _images(journal: Journal, keys: list[str]) -> Iterator[dict[str, Any]]:
    for number, key in enumerate(keys, 1):
        width, height = journal[key]["size"]
        yield coco.image(number, key, width, height)


def _annotations(journal: Journal, keys: list[str]) -> Iterator[dict[str, Any]]:
    number = 0
    for image_number, key in enumerate(keys, 1):
        for mask in journal[key]["masks"]:
            number += 1
            yield {"id": number, "image_id": image_number, "category_id": 1, **mask}
