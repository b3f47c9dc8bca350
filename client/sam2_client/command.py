"""The command `sam2`: embed pictures, click on one, join masks to a COCO data set.

Reads arguments and the environment, prints, writes files: results to standard output, the rest to standard error.
"""

import argparse
import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sam2_client import coco
from sam2_client.client import Client
from sam2_client.coco import Instance
from sam2_client.connection import DEFAULT_URL
from sam2_client.errors import Sam2Error
from sam2_client.prompt_lines import PromptLine, read_prompt_lines
from sam2_client.version import __version__

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit codes beside 0."""

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".avif"}
"""Of the files that a folder stands for."""

_EPILOG = """\
exit codes: 0 done, 1 something failed (the rest is done), 2 wrong usage.
environment: SAM2_URL and SAM2_API_KEY stand for --url and --api-key; other users see a key on the command line."""


class Misuse(Exception):
    """Arguments that make no sense together."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, those of the process where there are none; its exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        with Client(parsed.url, parsed.api_key or None) as client:
            done: bool = parsed.run(client, parsed)
    except Sam2Error as error:
        return _complain(f"{error.message} [{error.code}]")
    except (OSError, ValueError) as error:
        return _complain(str(error))
    except Misuse as error:
        _complain(str(error))
        return MISUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0 if done else FAILED


def embed(client: Client, arguments: argparse.Namespace) -> bool:
    """Print the id of each picture, a tab and its file."""
    files = list(_files(arguments.pictures, suffixes=PICTURE_SUFFIXES))
    results = client.embed_many(
        files, concurrency=arguments.concurrency, progress=len(files) > 1 and sys.stderr.isatty()
    )
    for file, result in zip(files, results, strict=True):
        if result.image is not None:
            print(f"{result.image.image_id}\t{file}")
        else:
            _complain(f"{file}: {_why(result.error)}")
    return all(result.error is None for result in results)


def decode(client: Client, arguments: argparse.Namespace) -> bool:
    """Print the masks of one prompt, and write the best."""
    points = [*arguments.point, *arguments.not_point]
    if not points and arguments.box is None:
        raise Misuse("nothing to segment: give --point X,Y, --box X0,Y0,X1,Y1, or both")
    image = client.embed(arguments.picture)
    masks = image.decode(
        points or None,
        [1] * len(arguments.point) + [0] * len(arguments.not_point) if points else None,
        box=arguments.box,
    )
    reply = coco.to_reply(image, masks, picture=arguments.picture.as_posix(), label=arguments.label)
    if arguments.json:
        print(json.dumps(reply))
    else:
        print(f"{arguments.picture}: {image.width} x {image.height} pixels, {image.model}, {image.image_id}")
        for mask in masks:
            x, y, width, height = mask.bbox
            print(
                f"IoU {mask.iou:.3f}  stability {mask.stability:.3f}  {mask.area} pixels in "
                f"{width} x {height} at {x},{y}"
            )
    for output in arguments.output:
        if output.suffix.lower() == ".json":
            output.write_text(json.dumps(reply) + "\n", "utf-8")
        else:
            masks[0].to_pil().save(output)
    if arguments.overlay is not None:
        masks[0].overlay(arguments.picture).save(arguments.overlay)
    return True


def export(client: Client, arguments: argparse.Namespace) -> bool:
    """Write a COCO data set of reply files, and of prompts in JSON lines that are decoded now."""
    instances: list[Instance] = []
    prompts: list[PromptLine] = []
    done = True
    for file in _files(arguments.files, suffixes={".json", ".jsonl"}):
        named = str(file) in arguments.files
        if file == arguments.coco or (file.suffix == ".json" and not named and not coco.is_reply(file)):
            continue
        try:
            if file.suffix == ".jsonl":
                prompts += read_prompt_lines(file)
            else:
                instances += coco.read_reply(file)
        except (OSError, ValueError) as error:
            done = False
            _complain(str(error))
    for found in _decode_lines(client, prompts):
        if isinstance(found, Instance):
            instances.append(found)
        else:
            done = False
            _complain(found)
    if not instances:
        raise ValueError("nothing to export: no masks in what was given")
    data = coco.dataset(instances)
    arguments.coco.write_text(json.dumps(data) + "\n", "utf-8")
    counts = ", ".join(f"{len(data[what])} {what}" for what in ("images", "annotations", "categories"))
    print(f"{arguments.coco}: {counts}")
    if empty := len(instances) - len(data["annotations"]):
        _complain(f"{empty} masks were empty and are left out")
    return done


def _decode_lines(client: Client, lines: Sequence[PromptLine]) -> Iterator[Instance | str]:
    """The best mask of each line, and a message for each picture that failed."""
    by_picture: dict[Path, list[PromptLine]] = {}
    for line in lines:
        by_picture.setdefault(line.path, []).append(line)
    results = client.embed_many(list(by_picture), progress=len(by_picture) > 1 and sys.stderr.isatty())
    for (path, of_picture), result in zip(by_picture.items(), results, strict=True):
        if result.image is None:
            yield f"{path}: {_why(result.error)}"
            continue
        try:
            answers = result.image.decode_many([line.prompt for line in of_picture])
        except (Sam2Error, OSError, ValueError) as error:
            yield f"{path}: {_why(error)}"
            continue
        for line, masks in zip(of_picture, answers, strict=True):
            size = {"width": result.image.width, "height": result.image.height}
            yield Instance(picture=line.picture, label=line.label, mask=masks[0], **size)


def _files(arguments: Sequence[str], *, suffixes: set[str]) -> Iterator[Path]:
    """The files that arguments name: files, folders (all that is below, by suffix), and patterns, for shells that
    leave them as they are. Raises OSError for a pattern that nothing matches.
    """
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            yield from sorted(below for below in path.rglob("*") if below.suffix.lower() in suffixes)
        elif path.exists() or not glob.has_magic(argument):
            yield path
        elif matches := sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207  # also absolute
            yield from map(Path, matches)
        else:
            raise FileNotFoundError(f"no file matches {argument}")


def _why(error: Exception | None) -> str:
    """Without the file's name, which the caller says."""
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)


def _complain(message: str) -> int:
    print(f"sam2: {message}", file=sys.stderr)
    return FAILED


def _point(text: str) -> list[float]:
    return _numbers(text, 2, "X,Y")


def _box(text: str) -> list[float]:
    return _numbers(text, 4, "X0,Y0,X1,Y1")


def _numbers(text: str, count: int, form: str) -> list[float]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    return numbers


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument(
        "--url", default=os.environ.get("SAM2_URL") or DEFAULT_URL, help="of the server; now %(default)s"
    )
    server.add_argument("--api-key", metavar="KEY", default=os.environ.get("SAM2_API_KEY"))
    parser = argparse.ArgumentParser(
        prog="sam2",
        description="Segment pictures with a SAM 2 service.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sam2-client {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser(
        "embed", parents=[server], help="embed pictures ahead of time; prints their ids"
    )
    one.add_argument("pictures", nargs="+", metavar="PICTURE", help="files, folders, patterns")
    one.add_argument(
        "--concurrency", type=_at_least_1, default=4, metavar="N", help="uploads at a time; default 4"
    )
    one.set_defaults(run=embed)

    one = commands.add_parser("decode", parents=[server], help="segment one object of a picture")
    one.add_argument("picture", type=Path)
    one.add_argument(
        "--point", type=_point, action="append", default=[], metavar="X,Y", help="on the object; repeatable"
    )
    one.add_argument(
        "--not",
        dest="not_point",
        type=_point,
        action="append",
        default=[],
        metavar="X,Y",
        help="beside the object; repeatable",
    )
    one.add_argument("--box", type=_box, metavar="X0,Y0,X1,Y1", help="around the object")
    one.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="the best mask, white on black; the reply, for export, where FILE ends in .json; repeatable",
    )
    one.add_argument("--overlay", type=Path, metavar="FILE", help="the picture with the best mask in colour")
    one.add_argument("--label", default=coco.DEFAULT_LABEL, help="category for export; default %(default)s")
    one.add_argument("--json", action="store_true", help="print the reply as JSON: > truck.json for export")
    one.set_defaults(run=decode)

    one = commands.add_parser(
        "export", parents=[server], help="join masks to one COCO data set: the best mask of each prompt"
    )
    one.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="replies of decode (.json), prompts to decode now (.jsonl), folders, patterns",
    )
    one.add_argument("--coco", type=Path, required=True, metavar="FILE", help="where to write the data set")
    one.set_defaults(run=export)
    return parser
