"""The command line of `sam2`.

Does not know what the commands do.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from sam2_client.coco import DEFAULT_LABEL
from sam2_client.connection import DEFAULT_URL
from sam2_client.data_set_arguments import (
    add_everything,
    add_masks_from_boxes,
    add_polygons,
    at_least_1,
    box,
    name,
    path,
    point,
    size,
)
from sam2_client.track_arguments import add_track
from sam2_client.version import __version__

_EPILOG = """\
exit codes: 0 done, 1 something failed (the rest is done), 2 wrong usage.
environment: SAM2_URL and SAM2_API_KEY are the defaults of --url and --api-key. Other users can see a key that is
given on the command line."""
_PIXELS = """\
--max-hole-area and --max-sprinkle-area count pixels of the model's own small mask, before it is enlarged. Its size
is mask_size of GET /model. At 256 x 256, one of its pixels is width/256 x height/256 pixels of the picture."""


_OPTION = re.compile(r"--[a-z][a-z-]*")
_NEGATIVE = re.compile(r"-(?:[0-9.]|inf|nan)", re.IGNORECASE)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command's arguments, or those of the process if None. Raises SystemExit for wrong usage."""
    return _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))


def _joined(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with negative values joined to their options: argparse takes -3,5 for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and _OPTION.fullmatch(joined[-1]) and _NEGATIVE.match(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _parser() -> argparse.ArgumentParser:
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument(
        "--url",
        default=os.environ.get("SAM2_URL") or DEFAULT_URL,
        help="address of the server; default %(default)s",
    )
    server.add_argument("--api-key", metavar="KEY", default=os.environ.get("SAM2_API_KEY"))
    clean_up = argparse.ArgumentParser(add_help=False)
    clean_up.add_argument(
        "--max-hole-area", type=size, default=0.0, metavar="N", help="fill holes of at most this many pixels"
    )
    clean_up.add_argument(
        "--max-sprinkle-area",
        type=size,
        default=0.0,
        metavar="N",
        help="remove specks of at most this many pixels",
    )
    parser = argparse.ArgumentParser(
        prog="sam2",
        description="Segment pictures with a SAM 2 service.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sam2-client {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser(
        "embed", parents=[server], help="embed pictures ahead of time; prints their ids"
    )
    one.add_argument("pictures", nargs="+", type=name, metavar="PICTURE", help="files, folders, patterns")
    one.add_argument(
        "--concurrency", type=at_least_1, default=4, metavar="N", help="concurrent uploads; default 4"
    )

    one = commands.add_parser(
        "decode", parents=[server, clean_up], help="segment one object of a picture", epilog=_PIXELS
    )
    one.add_argument("picture", type=path)
    one.add_argument(
        "--point", type=point, action="append", default=[], metavar="X,Y", help="on the object; repeatable"
    )
    one.add_argument(
        "--not",
        dest="not_point",
        type=point,
        action="append",
        default=[],
        metavar="X,Y",
        help="not on the object; repeatable",
    )
    one.add_argument("--box", type=box, metavar="X0,Y0,X1,Y1", help="around the object")
    one.add_argument(
        "-o",
        "--output",
        type=path,
        action="append",
        default=[],
        metavar="FILE",
        help="write the best mask, white on black; if FILE ends in .json, the reply, for export; repeatable",
    )
    one.add_argument(
        "--overlay", type=path, metavar="FILE", help="write the picture with the best mask in colour"
    )
    one.add_argument(
        "--cutout",
        type=path,
        metavar="FILE",
        help="write the best mask's object alone, cropped to its box, transparent around it: PNG, WebP or TIFF",
    )
    one.add_argument("--label", default=DEFAULT_LABEL, help="category for export; default %(default)s")
    one.add_argument(
        "--json", action="store_true", help="print the reply as JSON; redirect it to a .json file for export"
    )

    one = commands.add_parser(
        "export",
        parents=[server, clean_up],
        help="combine masks into one COCO or YOLO data set: the best mask of each prompt",
        epilog=f"Clean-up applies only to prompts that are decoded now. {_PIXELS}",
    )
    one.add_argument(
        "files",
        nargs="+",
        type=name,
        metavar="FILE",
        help="replies of decode (.json), prompts to decode now (.jsonl), folders, patterns",
    )
    one.add_argument("--coco", type=path, metavar="FILE", help="file to write a COCO data set to")
    one.add_argument(
        "--yolo",
        type=path,
        metavar="FOLDER",
        help="new folder to write a data set for Ultralytics' YOLO segmentation to, with copies of the pictures",
    )
    add_polygons(one)
    add_everything(commands, server)
    add_masks_from_boxes(commands, server)
    add_track(commands, server, clean_up)
    return parser
