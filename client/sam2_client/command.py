"""The command `sam2`: embeds pictures, segments an object, combines masks into a COCO or YOLO data set.

The commands for whole data sets have files of their own.

Prints results to standard output and messages to standard error, and writes files.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path

import PIL.Image

from sam2_client import coco, yolo
from sam2_client.arguments import parse
from sam2_client.client import Client
from sam2_client.coco import Instance
from sam2_client.data_set_arguments import Misuse
from sam2_client.errors import InvalidPrompt, Sam2Error, ValidationFailed
from sam2_client.everything_command import everything
from sam2_client.masks import Mask
from sam2_client.masks_from_boxes import masks_from_boxes
from sam2_client.messages import complain, named, tell, why
from sam2_client.named_files import PICTURE_SUFFIXES, named_files, tell_left_out
from sam2_client.outputs import picture_kind, require_another, require_data_set, require_picture
from sam2_client.prompt_errors import is_of_a_prompt
from sam2_client.prompt_lines import PromptLine, read_prompt_lines
from sam2_client.replies import MAX_PIXELS
from sam2_client.sync_image import Image
from sam2_client.track_command import track
from sam2_client.whole_files import require_writable, whole
from sam2_client.workers import until_admitted

FAILED, MISUSED, INTERRUPTED, UNREAD = 1, 2, 130, 141
"""Exit codes other than 0."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, or those of the process if None. Returns the exit code."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by a shell's >&-
            setattr(sys, stream, Path(os.devnull).open("w"))  # noqa: SIM115  # open until the process ends
    PIL.Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # how large a picture may be is the service's to say
    parsed = parse(arguments)
    run = {
        "embed": embed,
        "decode": decode,
        "export": export,
        "everything": everything,
        "masks-from-boxes": masks_from_boxes,
        "track": track,
    }[parsed.command]
    try:
        with Client(parsed.url, parsed.api_key or None) as client, _results_beside(parsed):
            done = run(client, parsed)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough, such as head: the end that SIGPIPE gives a program
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except Sam2Error as error:
        complain(f"{error.message} [{error.code}]")
        return FAILED
    except (OSError, ValueError) as error:
        complain(str(error))
        return FAILED
    except Misuse as error:
        complain(str(error))
        return MISUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0 if done else FAILED


def _results_beside(arguments: argparse.Namespace) -> AbstractContextManager[object]:
    """Print results on standard error where standard output gets the data set, as by `--coco /dev/stdout | jq`."""
    file: Path | None = getattr(arguments, "coco", None)
    try:
        taken = file is not None and os.path.samestat(file.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # there is no such file yet, or standard output is none
        taken = False
    return redirect_stdout(sys.stderr) if taken else nullcontext()


def embed(client: Client, arguments: argparse.Namespace) -> bool:
    """Embed pictures; print each one's id, a tab and its file."""
    files = [file.path for file in named_files(arguments.pictures, suffixes=PICTURE_SUFFIXES)]
    if not files:
        raise ValueError("there are no pictures in what is named")
    results = client.embed_many(
        files, concurrency=arguments.concurrency, progress=len(files) > 1 and sys.stderr.isatty()
    )
    for file, result in zip(files, results, strict=True):
        if result.image is not None:
            tell(f"{result.image.image_id}\t{file}")
        else:
            complain(f"{file}: {why(result.error)}")
    return all(result.error is None for result in results)


def decode(client: Client, arguments: argparse.Namespace) -> bool:
    """Decode one prompt; print its masks and write the best one to files."""
    points = [*arguments.point, *arguments.not_point]
    if not points and arguments.box is None:
        raise Misuse("nothing to segment: give --point X,Y, --box X0,Y0,X1,Y1, or both")
    for option, file, mode in [
        *(("-o", output, "L") for output in arguments.output),
        ("--overlay", arguments.overlay, "RGB"),
        ("--cutout", arguments.cutout, "RGBA"),
    ]:
        if file is not None:
            require_another(option, file, [arguments.picture])
            if option != "-o" or file.suffix.lower() != ".json":
                require_picture(option, file, mode=mode)
    # A pipe, such as /dev/stdin, can be read only once.
    source = arguments.picture if arguments.picture.is_file() else arguments.picture.read_bytes()
    image = client.embed(source)
    masks = image.decode(
        points or None,
        [1] * len(arguments.point) + [0] * len(arguments.not_point) if points else None,
        box=arguments.box,
        max_hole_area=arguments.max_hole_area,
        max_sprinkle_area=arguments.max_sprinkle_area,
    )
    reply = coco.to_reply(image, masks, picture=arguments.picture.as_posix(), label=arguments.label)
    if arguments.json:
        print(json.dumps(reply))
    else:
        tell(f"{arguments.picture}: {image.width} x {image.height} pixels, {image.model}, {image.image_id}")
        for mask in masks:
            x, y, width, height = mask.bbox
            print(
                f"IoU {mask.iou:.3f}  stability {mask.stability:.3f}  {mask.area} pixels in "
                f"{width} x {height} at {x},{y}"
            )
    for output in arguments.output:
        with whole(output) as new:
            if output.suffix.lower() == ".json":
                new.write_text(json.dumps(reply) + "\n", "utf-8")
            else:
                masks[0].to_pil().save(new, picture_kind(output))
    for draw, output in ((masks[0].overlay, arguments.overlay), (masks[0].cutout, arguments.cutout)):
        if output is not None:
            picture = draw(source)
            with whole(output) as new:
                picture.save(new, picture_kind(output))
    return True


def export(client: Client, arguments: argparse.Namespace) -> bool:
    """Write data sets from reply files and from prompts in JSON lines, which are decoded now."""
    if arguments.coco is None and arguments.yolo is None:
        raise Misuse("nothing to write: give --coco FILE, --yolo FOLDER, or both")
    if arguments.polygons and arguments.coco is None:
        raise Misuse("--polygons requires --coco")
    if arguments.simplify and not (arguments.polygons or arguments.yolo):
        raise Misuse("--simplify requires --polygons or --yolo")
    if arguments.coco is not None:
        require_data_set("--coco", arguments.coco)
        require_writable(arguments.coco)
    if arguments.yolo is not None:
        yolo.require_empty(arguments.yolo)
    instances: list[Instance] = []
    prompts: list[PromptLine] = []
    no_replies: list[Path] = []
    given = set(map(Path, arguments.files))
    done = True
    for file, _ in named_files(arguments.files, suffixes={".json", ".jsonl"}):
        if file == arguments.coco:
            continue
        if file.suffix.lower() == ".json" and file not in given and not coco.is_reply(file):
            no_replies.append(file)
            continue
        try:
            if file.suffix.lower() == ".jsonl":
                for line in read_prompt_lines(file):
                    if isinstance(line, PromptLine):
                        prompts.append(line)
                    else:
                        done = False
                        complain(line)
            else:
                instances += coco.read_reply(file)
        except (OSError, ValueError) as error:
            done = False
            complain(str(error))
    tell_left_out(no_replies, why="they are not replies of /decode")
    if not prompts and (arguments.max_hole_area or arguments.max_sprinkle_area):
        raise Misuse(
            "--max-hole-area and --max-sprinkle-area require prompts (.jsonl): masks of replies are not changed"
        )
    for found in _decode_lines(client, prompts, arguments):
        if isinstance(found, Instance):
            instances.append(found)
        else:
            done = False
            complain(found)
    if not instances:
        raise ValueError("nothing to export: the files contain no masks")
    if several := coco.several_names(instances):
        complain(
            f"pictures with several names become several images, none with all objects: {named(several)}"
        )
    if arguments.coco is not None:
        data = coco.dataset(instances, simplify=arguments.simplify if arguments.polygons else None)
        coco.write(arguments.coco, data)
        counts = ", ".join(f"{len(data[what])} {what}" for what in ("images", "annotations", "categories"))
        tell(f"{arguments.coco}: {counts}")
    filled = sum(bool(instance.mask.area) for instance in instances)
    if arguments.yolo is not None:
        # A reply's picture is a path as it was given to `sam2 decode`, a line's is relative to the line's file.
        files = {one.picture: Path(one.picture) for one in instances}
        files |= {line.picture: line.path for line in prompts}
        for message in yolo.write(arguments.yolo, instances, files=files, simplify=arguments.simplify):
            done = False
            complain(message)
        tell(f"{arguments.yolo}: {len({one.picture for one in instances})} images, {filled} labels")
    if filled < len(instances):
        complain(f"{len(instances) - filled} masks are empty and are left out")
    return done


def _decode_lines(
    client: Client, lines: Sequence[PromptLine], arguments: argparse.Namespace
) -> Iterator[Instance | str]:
    """Yield the best mask of each line, and a message for each failed picture or line."""
    by_picture: dict[Path, list[PromptLine]] = {}
    for line in lines:
        by_picture.setdefault(line.path, []).append(line)
    results = client.embed_many(list(by_picture), progress=len(by_picture) > 1 and sys.stderr.isatty())
    for (path, of_picture), result in zip(by_picture.items(), results, strict=True):
        if result.image is None:
            yield f"{path}: {why(result.error)}"
            continue
        try:
            answers = _answers(result.image, of_picture, arguments)
        except (Sam2Error, OSError, ValueError) as error:
            yield f"{path}: {why(error)}"
            continue
        for line, mask in zip(of_picture, answers, strict=True):
            if isinstance(mask, str):
                yield mask
                continue
            yield Instance(
                picture=line.picture,
                width=result.image.width,
                height=result.image.height,
                label=line.label,
                mask=mask,
                image_id=result.image.image_id,
            )


def _answers(image: Image, lines: Sequence[PromptLine], arguments: argparse.Namespace) -> list[Mask | str]:
    """Return the best mask of each line of a picture, or what is wrong with the line.

    The service refuses a request for one wrong prompt, so those that it refuses are halved. Raises what is wrong
    with all of them.
    """
    decode = partial(
        image.decode_many,
        max_hole_area=arguments.max_hole_area,
        max_sprinkle_area=arguments.max_sprinkle_area,
    )
    try:
        answers = until_admitted(decode)([line.prompt for line in lines])
    except (InvalidPrompt, ValidationFailed) as error:
        if not is_of_a_prompt(error):
            raise
        if len(lines) == 1:
            return [f"{lines[0].place}: {error.message.removeprefix('prompts[0]').lstrip('.: ')}"]
    else:
        return [masks[0] for masks in answers]
    half = len(lines) // 2
    return [*_answers(image, lines[:half], arguments), *_answers(image, lines[half:], arguments)]
