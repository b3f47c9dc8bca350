"""The command line of `sam2 everything` and `sam2 masks-from-boxes`, and what other commands share with it.

Does not know what the commands do.
"""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_RESUME = """\
What is done is kept in OUTPUT.partial beside the output. If the run is cut, or some pictures fail, the same command
goes on from there; the file is deleted when all is done."""
_BOXES = f"""\
Boxes are those of the picture as it is shown, turned by its EXIF orientation, as in all data sets that sam2 writes;
width and height in the file must be those of the picture as it is shown. Ids, categories and fields that sam2 does
not know are kept. Annotations get segmentation, area, score (the predicted IoU) and stability; a score that was
there becomes box_score. Annotations with iscrowd are untouched, boxes over the edge are clipped. Boxes without area
or outside the picture, and those of pictures that are missing or have another size, are kept as they were, each
with a line. A folder of YOLO's labels becomes a COCO file: category ids are YOLO's numbers, names are those of
data.yaml or classes.txt. A picture is found by file_name within the named folders, or by the end of its path.

{_RESUME}"""


class Misuse(Exception):
    """The arguments do not fit together."""


def add_everything(commands: "Commands", server: argparse.ArgumentParser) -> None:
    """Add `sam2 everything`."""
    one = commands.add_parser(
        "everything",
        parents=[server],
        help="segment every object of pictures, into one COCO data set",
        description="Segment every object of pictures, into one COCO data set with one category.",
        epilog=f"Without options, the server's model has its own, as SAM2AutomaticMaskGenerator. {_RESUME}",
    )
    one.add_argument("pictures", nargs="+", type=name, metavar="PICTURE", help="files, folders, patterns")
    one.add_argument(
        "--coco", type=path, required=True, metavar="OUTPUT", help="file to write the data set to"
    )
    add_polygons(one)
    one.add_argument(
        "--points-per-side", type=at_least_1, metavar="N", help="click on a grid of so many points a side"
    )
    one.add_argument(
        "--pred-iou-thresh", type=_share, metavar="IOU", help="keep masks above this predicted IoU"
    )
    one.add_argument(
        "--stability-score-thresh", type=_share, metavar="S", help="keep masks as stable as this"
    )
    one.add_argument(
        "--box-nms-thresh",
        type=_share,
        metavar="IOU",
        help="of two masks whose boxes have a larger IoU, keep one",
    )
    one.add_argument("--crop-n-layers", type=at_least_1, metavar="N", help="also look at crops, 2**i a side")
    one.add_argument(
        "--min-mask-region-area",
        type=size,
        metavar="N",
        help="fill holes and remove specks of at most this many pixels of the model's own small mask",
    )
    one.add_argument(
        "--max-masks", type=at_least_1, metavar="N", help="at most so many for a picture, the best"
    )
    _add_concurrency(one, default=2)


def add_masks_from_boxes(commands: "Commands", server: argparse.ArgumentParser) -> None:
    """Add `sam2 masks-from-boxes`."""
    one = commands.add_parser(
        "masks-from-boxes",
        parents=[server],
        help="turn the boxes of a COCO or YOLO data set into masks",
        description="Turn the boxes of a data set into masks. The result is the same COCO file with masks.",
        epilog=_BOXES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument("boxes", type=path, metavar="BOXES", help="a COCO file, or a folder of YOLO's labels")
    one.add_argument("pictures", nargs="+", type=name, metavar="PICTURE", help="files, folders, patterns")
    one.add_argument("-o", "--output", type=path, required=True, metavar="OUTPUT", help="COCO file to write")
    add_polygons(one)
    one.add_argument(
        "--uncertain",
        type=_share,
        default=0.7,
        metavar="IOU",
        help="list masks with a predicted IoU below this at the end; default %(default)s",
    )
    _add_concurrency(one, default=4)


def add_polygons(one: argparse.ArgumentParser) -> None:
    """Add the options for the form of masks in a COCO data set."""
    one.add_argument(
        "--polygons", action="store_true", help="write polygons instead of RLE to the COCO data set"
    )
    one.add_argument(
        "--simplify",
        type=size,
        default=0.0,
        metavar="PX",
        help="simplify polygons: the outline moves by at most this many pixels of the picture",
    )


def _add_concurrency(one: argparse.ArgumentParser, *, default: int) -> None:
    one.add_argument(
        "--concurrency",
        type=at_least_1,
        default=default,
        metavar="N",
        help="pictures at a time; default %(default)s",
    )


def name(text: str) -> str:
    """Parse the name of files. An empty one would be the current folder with all that is in it."""
    if not text:
        raise argparse.ArgumentTypeError("a name is empty: is a variable of the shell not set?")
    return text


def path(text: str) -> Path:
    """Parse the name of one file or folder."""
    return Path(name(text))


def size(text: str) -> float:
    """Parse a number of at least 0."""
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return number


def at_least_1(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def number(text: str) -> int:
    """Parse a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def positive(text: str) -> float:
    """Parse a number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def point(text: str) -> list[float]:
    """Parse X,Y."""
    return _numbers(text, 2, "X,Y")


def box(text: str) -> list[float]:
    """Parse X0,Y0,X1,Y1."""
    return _numbers(text, 4, "X0,Y0,X1,Y1")


def _numbers(text: str, count: int, form: str) -> list[float]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    return numbers


def _share(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0..1")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
