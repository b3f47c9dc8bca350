"""The command line of `sam2 track`, and the prompts in it, which depend on their order.

Does not know about servers.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam2_client.coco import DEFAULT_LABEL
from sam2_client.data_set_arguments import Misuse, add_polygons, box, name, number, path, point, positive
from sam2_client.deep_pictures import is_deep
from sam2_client.prompts import TrackPrompt

if TYPE_CHECKING:
    from sam2_client.data_set_arguments import Commands

_EPILOG = """\
prompts: --frame and --object hold for the --point, --not, --box and --mask after them; --label is the category of
the object named last. Two objects, and a correction of the first one on frame 30:
  sam2 track clip.mp4 --point 500,375 --object 2 --box 10,20,90,80 --object 1 --frame 30 --not 480,300 -o masks

masks: FOLDER/OBJECT/FRAME.png, such as masks/001/000012.png, white on black, all black where the object is not
visible; so SAM 2's own script names them with --per_obj_png_file. Files that exist are replaced, others stay.

COCO: a frame is an image with video_id and frame_index, a visible mask is an annotation with video_id and track_id,
the object's number; "videos" and "tracks" list both. These are the names of the TAO data set. Tools that do not
know them read the file as pictures, which they could not do with a list of masks for each object (YouTube-VIS).
file_name is the picture's path; for a video CLIP/FRAME.jpg, as ffmpeg -r 10 -i CLIP.mp4 -map 0:V:0 -start_number 0
CLIP/%06d.jpg makes them: any -r before -i, or ffmpeg repeats and drops frames of a variable rate. If its pixels are
not square, add -s WIDTHxHEIGHT with the file's width and height, or ffmpeg leaves them so.

overlay: an MP4 of the frames that were tracked, with a colour for each object. It requires PyAV: pip install av

Ctrl-C keeps what is done: the masks, and other outputs as NAME.partial.EXT. Outputs that exist are replaced when
the new ones are complete. The video stays on the server, so another run does not embed its frames again."""


@dataclass(slots=True)
class Prompts:
    """What the command line says about objects."""

    prompts: list[TrackPrompt] = field(default_factory=list)
    labels: dict[int, str] = field(default_factory=dict)
    """Categories by object."""

    def label(self, object_id: int) -> str:
        """Return the category of an object."""
        return self.labels.get(object_id, DEFAULT_LABEL)


class _InOrder(argparse.Action):
    """Adds the option and its value to one list of all such options."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002  # as argparse calls it
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        namespace.prompt_options = [
            *(getattr(namespace, "prompt_options", None) or []),
            (option_string, values),
        ]


def add_track(
    commands: "Commands", server: argparse.ArgumentParser, clean_up: argparse.ArgumentParser
) -> None:
    """Add `sam2 track`."""
    one = commands.add_parser(
        "track",
        parents=[server, clean_up],
        help="follow objects through a video or a folder of frames",
        description="Follow objects through a video or a folder of frames.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument(
        "frames",
        nargs="+",
        type=name,
        metavar="VIDEO",
        help="a video; or pictures as its frames, 2.png before 10.png: a folder, files, a pattern",
    )
    for option, kind, metavar, text in (
        ("--frame", number, "N", "frame of the prompts that follow, from 0; default 0"),
        ("--object", number, "N", "object of the prompts that follow; default 1"),
        ("--label", str, "NAME", f"category of the object named last; default {DEFAULT_LABEL}"),
        ("--point", point, "X,Y", "on the object; repeatable"),
        ("--not", point, "X,Y", "not on the object; repeatable"),
        ("--box", box, "X0,Y0,X1,Y1", "around the object"),
        (
            "--mask",
            path,
            "FILE",
            "the object's mask as a picture, black or transparent elsewhere; all black: it is not here",
        ),
    ):
        one.add_argument(
            option, type=kind, metavar=metavar, help=text, action=_InOrder, dest="prompt_options", default=[]
        )
    one.add_argument("--direction", choices=["forward", "backward", "both"], default="forward")
    one.add_argument(
        "--from",
        dest="first",
        type=number,
        metavar="N",
        help="first frame; default the earliest with a prompt",
    )
    one.add_argument(
        "--to", dest="last", type=number, metavar="N", help="last frame, included; default the end"
    )
    one.add_argument(
        "--fps",
        type=positive,
        metavar="N",
        help="take so many frames a second of a video; with pictures, the rate of the overlay (default 10)",
    )
    one.add_argument(
        "--non-overlapping", action="store_true", help="each pixel belongs to one object at most"
    )
    one.add_argument("-o", "--output", type=path, metavar="FOLDER", help="write masks as PNG")
    one.add_argument("--coco", type=path, metavar="FILE", help="write a COCO data set")
    add_polygons(one)
    one.add_argument(
        "--overlay", type=path, metavar="FILE", help="write a video (.mp4) with objects in colour"
    )


def prompts_of(args: Sequence[tuple[str, Any]]) -> Prompts:
    """Return the prompts of the command line, one for each object and frame.

    Raises Misuse for options that are for nothing, OSError and ValueError for a mask that cannot be read.
    """
    found = Prompts()
    by_place: dict[tuple[int, int], dict[str, Any]] = {}
    frame, object_id, unused = 0, 1, ""
    for option, value in args:
        if option == "--frame":
            frame, unused = value, option
        elif option == "--object":
            object_id, unused = value, option
        elif option == "--label":
            found.labels[object_id] = value
        else:
            unused = ""
            _add(
                by_place.setdefault((object_id, frame), {}),
                option,
                value,
                f"object {object_id}, frame {frame}",
            )
    if unused:
        raise Misuse(f"{unused} after the last prompt: it holds for the prompts that follow")
    if not by_place:
        raise Misuse("nothing to follow: give --point X,Y, --box X0,Y0,X1,Y1 or --mask FILE")
    prompted = {each for each, _ in by_place}
    for each in found.labels:
        if each not in prompted:
            raise Misuse(f"--label {found.labels[each]}: object {each} has no prompt")
    found.prompts = [
        TrackPrompt(**fields, frame=its_frame, object=its_object)
        for (its_object, its_frame), fields in by_place.items()
    ]
    return found


def _add(fields: dict[str, Any], option: str, value: Any, where: str) -> None:
    if option in ("--point", "--not"):
        fields.setdefault("points", []).append(value)
        fields.setdefault("labels", []).append(int(option == "--point"))
    elif option.removeprefix("--") in fields:
        raise Misuse(f"{option} is given twice for {where}")
    elif option == "--box":
        fields["box"] = value
    else:
        fields["mask"] = _drawn(value)
    if "mask" in fields and len(fields) > 1:
        raise Misuse(f"--mask and other prompts for {where}: a mask is a prompt of its own")


def _drawn(file: Path) -> npt.NDArray[np.bool_]:
    """Return the mask that a picture shows: not black, and not transparent. Raises OSError."""
    with Image.open(file) as picture:
        if is_deep(picture):
            return np.asarray(np.asarray(picture) > 0)
        values = np.asarray(picture.convert("RGBA"))
    return np.asarray(values[..., :3].any(axis=2) & (values[..., 3] > 0))
