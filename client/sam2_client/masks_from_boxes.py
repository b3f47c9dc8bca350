"""`sam2 masks-from-boxes`: the masks of all boxes of a data set, in the same file.

Boxes and masks lie on pictures as they are shown, turned by EXIF, as in all data sets that this package writes.
Does not know the formats of boxes, and how a run goes on after a cut.
"""

import argparse
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sam2_client import box_sets, coco, picture_names
from sam2_client.box_sets import BoxedPicture, BoxSet, in_pixels
from sam2_client.client import Client
from sam2_client.data_set_arguments import Misuse
from sam2_client.journal import Journal
from sam2_client.long_runs import close, embedded, stamp, work_through
from sam2_client.masks import Mask
from sam2_client.messages import complain, named, say, why
from sam2_client.named_files import PICTURE_SUFFIXES, named_files
from sam2_client.outputs import require_another, require_data_set
from sam2_client.prompts import Prompt
from sam2_client.stories import PROMPTS_PER_REQUEST
from sam2_client.sync_image import Image
from sam2_client.yolo_boxes import read_yolo

_MOST_MISSING = 20
"""Pictures that get a line each: users who have a part of a large data set want to see the other lines."""


def masks_from_boxes(client: Client, arguments: argparse.Namespace) -> bool:
    """Segment all boxes, write the data set with their masks, and return whether every box got one."""
    output: Path = arguments.output
    if arguments.simplify and not arguments.polygons:
        raise Misuse("--simplify requires --polygons")
    require_data_set("-o", output, is_long=True)
    require_another("-o", output, [arguments.boxes], what="the file of boxes")
    is_folder = arguments.boxes.is_dir()
    boxes = read_yolo(arguments.boxes) if is_folder else box_sets.read_coco(arguments.boxes)
    of_boxes = (
        {".txt", ".yaml", ".yml", ".names"} if is_folder else {".json"}
    )  # they may lie among the pictures
    files = list(named_files(arguments.pictures, suffixes=PICTURE_SUFFIXES, read_otherwise=of_boxes))
    for each in files:
        each.path.lstat()  # a folder that is not there would be said of each picture: no such picture
    names = [each.name for each in boxes.pictures]
    found = (picture_names.find_labelled if is_folder else picture_names.find)(names, files)
    for line in (*boxes.problems, *picture_names.shared(names, found)):
        complain(line)
    run = Run(client, boxes, found, simplify=arguments.simplify if arguments.polygons else None)
    with Journal(output, run.facts()) as journal:
        shown = len(run.keys) > 1 and sys.stderr.isatty()
        failed = run.work(journal, concurrency=arguments.concurrency, shown=shown)
        counts = run.join(journal)
        coco.write(output, boxes.document)
        close(journal, failed=failed, of=len(run.keys))  # also if nobody reads the lines that follow
        _sum_up(boxes, counts, arguments)
    return not (failed or boxes.problems or counts.without_mask)


class Counts:
    """What a run did to the annotations."""

    def __init__(self) -> None:
        self.masks: list[tuple[float, str]] = []
        """Predicted IoU and name of each."""
        self.clipped = 0
        self.without_mask = 0


class Run:
    """One run over the pictures of a data set. Keys are the places of pictures in the file's list."""

    def __init__(
        self, client: Client, boxes: BoxSet, found: dict[str, Path | str], *, simplify: float | None
    ) -> None:
        model = client.model()
        self._client = client
        self._boxes = boxes
        self._found = found
        self._simplify = simplify
        self._model = model
        self._most = max(
            1, min(int(model.limits.get("max_prompts", PROMPTS_PER_REQUEST)), PROMPTS_PER_REQUEST)
        )
        self._ended = threading.Event()
        self._pictures = {str(picture.place): picture for picture in boxes.pictures}
        self.keys = list(self._pictures)

    def facts(self) -> dict[str, Any]:
        """Return all that the masks depend on, but for the pictures."""
        content = hashlib.sha256(json.dumps(self._boxes.document | {"info": None}).encode()).hexdigest()
        return {
            "command": "masks-from-boxes",
            "boxes": content,
            "model": self._model.fingerprint,
            "simplify": self._simplify,
        }

    def work(self, journal: Journal, *, concurrency: int, shown: bool) -> int:
        """Segment the boxes of all pictures that the journal does not have. Return how many pictures failed."""
        for key in list(journal):
            if not self._is_unchanged(key, journal[key]["stamp"]):
                journal.forget(key)
        failed = 0
        missing: list[BoxedPicture] = []
        fate = "left out" if self._boxes.in_shares else "kept as they were"
        results = work_through(
            self._client, self.keys, self._segment, journal, concurrency=concurrency, shown=shown
        )
        try:
            for key, result in results:
                picture = self._pictures[key]
                if isinstance(result, Exception):
                    failed += 1
                    missing += [picture] if self._found[picture.name] == picture_names.MISSING else []
                    if len(missing) <= _MOST_MISSING or picture is not missing[-1]:
                        complain(f"{picture.name}: {why(result)}; its {len(picture.boxes)} boxes are {fate}")
                else:
                    for line in _in_words(picture, result):
                        complain(line)
        finally:
            self._ended.set()
        if more := missing[_MOST_MISSING:]:  # of a part of a data set
            boxes = sum(len(picture.boxes) for picture in more)
            complain(f"{len(more)} more pictures are missing; their {boxes} boxes are {fate}")
        return failed

    def join(self, journal: Journal) -> Counts:
        """Put what the journal has into the document."""
        counts = Counts()
        images, annotations = self._boxes.document["images"], self._boxes.document["annotations"]
        for key, picture in self._pictures.items():
            if key not in journal:
                counts.without_mask += len(picture.boxes)
                continue
            result = journal[key]
            counts.clipped += len(result["clipped"])
            if self._boxes.in_shares:
                images[picture.place] = coco.image(
                    images[picture.place]["id"], Path(result["stamp"][0]).as_posix(), *result["size"]
                )
            elif picture.size is None:  # pycocotools needs it to draw a mask
                images[picture.place] |= dict(zip(("width", "height"), result["size"], strict=True))
            for box, change in zip(picture.boxes, result["changes"], strict=True):
                annotation = annotations[box.place]
                if "segmentation" not in change:
                    counts.without_mask += 1
                else:
                    counts.masks.append((change["score"], box.name))
                    if "score" in annotation:  # of a detector
                        annotation.setdefault("box_score", annotation["score"])
                annotation |= change
        if self._boxes.in_shares:  # without their size, boxes of the others have no pixels
            sized = {image["id"] for image in images if "width" in image}
            images[:] = [image for image in images if image["id"] in sized]
            annotations[:] = [each for each in annotations if each["image_id"] in sized]
        return counts

    def _segment(self, key: str) -> dict[str, Any]:
        """Return what the boxes of a picture become. Runs in a thread."""
        picture = self._pictures[key]
        file = self._found[picture.name]
        if isinstance(file, str):
            raise FileNotFoundError(file)
        read = stamp(file)
        image = embedded(self._client, file, model=self._model)
        size = image.width, image.height
        if picture.size is not None and picture.size != size:
            raise ValueError(_other_size(picture.size, size))
        in_shares = self._boxes.in_shares
        bboxes = [in_pixels(box.bbox, size) if in_shares else box.bbox for box in picture.boxes]
        corners = [box_sets.corners(bbox, size) for bbox in bboxes]
        masks = self._masks(image, [Prompt(box=each[0]) for each in corners if each is not None])
        result: dict[str, Any] = {"stamp": read, "size": size, "clipped": [], "refused": [], "empty": []}
        changes: list[dict[str, Any]] = [
            {"bbox": bbox, "area": max(bbox[2], 0.0) * max(bbox[3], 0.0)} if in_shares else {}
            for bbox in bboxes
        ]
        for box, each, change in zip(picture.boxes, corners, changes, strict=True):
            if each is None:
                result["refused"].append(box.name)
                continue
            (x0, y0, x1, y1), is_clipped = each
            if not (mask := next(masks)).area:
                result["empty"].append(box.name)
                continue
            if is_clipped:
                result["clipped"].append(box.name)
                change["bbox"] = [round(number, 3) for number in (x0, y0, x1 - x0, y1 - y0)]
            shape = coco.shape(mask, simplify=self._simplify)
            change |= {"segmentation": shape["segmentation"], "area": shape["area"]}
            change |= {"score": mask.iou, "stability": mask.stability}
        return {**result, "changes": changes}

    def _masks(self, image: Image, prompts: list[Prompt]) -> Iterator[Mask]:
        for start in range(0, len(prompts), self._most):
            if self._ended.is_set():
                raise InterruptedError("the command was stopped")
            for masks in image.decode_many(prompts[start : start + self._most]):
                yield masks[0]

    def _is_unchanged(self, key: str, before: Any) -> bool:
        picture = self._pictures.get(key)
        file = self._found.get(picture.name) if picture is not None else None
        try:
            return isinstance(file, Path) and stamp(file) == before
        except OSError:
            return False


def _other_size(expected: tuple[int, int], size: tuple[int, int]) -> str:
    turned = " (turned by EXIF, as it is shown)" if expected == size[::-1] else ""
    return (
        f"the file says {expected[0]} x {expected[1]} pixels, but the picture has {size[0]} x {size[1]}{turned}: "
        "it was stretched, turned or replaced since its boxes were drawn"
    )


def _in_words(picture: BoxedPicture, result: dict[str, Any]) -> Iterator[str]:
    if result["clipped"]:
        yield f"{picture.name}: boxes over the edge are clipped: annotations {named(result['clipped'])}"
    if result["refused"]:
        yield (
            f"{picture.name}: boxes without area, or wholly outside the picture, are kept as they were: "
            f"annotations {named(result['refused'])}"
        )
    if result["empty"]:
        yield f"{picture.name}: annotations {named(result['empty'])} have empty masks and are kept as they were"


def _sum_up(boxes: BoxSet, counts: Counts, arguments: argparse.Namespace) -> None:
    parts = [f"{len(counts.masks)} masks", f"{len(boxes.document['images'])} images"]
    if boxes.crowds:
        parts.append(f"{boxes.crowds} crowd regions untouched")
    if counts.clipped:
        parts.append(f"{counts.clipped} boxes clipped")
    if counts.without_mask:
        parts.append(f"{counts.without_mask} boxes without mask")
    say(f"{arguments.output}: {', '.join(parts)}")
    uncertain = sorted(each for each in counts.masks if each[0] < arguments.uncertain)
    if uncertain:
        worst = named([f"{name} ({iou:.2f})" for iou, name in uncertain])
        say(
            f"uncertain: {len(uncertain)} of {len(counts.masks)} masks have a predicted IoU below "
            f"{arguments.uncertain:g}. Annotations, the least certain first: {worst}"
        )
