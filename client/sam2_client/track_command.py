"""`sam2 track`: objects are followed through a video or a folder of frames.

Does not know how its outputs are written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sam2_client import overlay_video
from sam2_client.client import Client
from sam2_client.data_set_arguments import Misuse
from sam2_client.messages import complain
from sam2_client.named_files import PICTURE_SUFFIXES, named_files, tell_left_out
from sam2_client.outputs import require_another, require_data_set, require_folder
from sam2_client.sync_track import Track
from sam2_client.track_arguments import Prompts, prompts_of
from sam2_client.track_outputs import (
    Clip,
    CocoFile,
    MaskFiles,
    Output,
    OverlayFile,
    close,
    masks_of,
    partial_of,
)
from sam2_client.track_sources import VIDEO_SUFFIXES, in_order

_PICTURES, _VIDEOS = PICTURE_SUFFIXES - VIDEO_SUFFIXES, VIDEO_SUFFIXES - PICTURE_SUFFIXES
"""A lone file with one of these suffixes is one frame, as in a folder."""
_PICTURES_FPS = 10.0


def track(client: Client, arguments: argparse.Namespace) -> bool:
    """Follow the objects, write what is asked for, and return whether no frame failed."""
    _check(arguments)
    asked = prompts_of(arguments.prompt_options)
    shown = sys.stderr.isatty()
    tracked, clip = _begin(client, asked, arguments, shown=shown)
    with tracked:
        for each in asked.prompts:
            tracked.click(
                each.points, each.labels, box=each.box, mask=each.mask, frame=each.frame, object=each.object
            )
        return _follow(tracked, clip, asked, arguments, shown=shown)


def _check(arguments: argparse.Namespace) -> None:
    if not (arguments.output or arguments.coco or arguments.overlay):
        raise Misuse("nothing to write: give -o FOLDER, --coco FILE or --overlay FILE")
    if arguments.polygons and arguments.coco is None:
        raise Misuse("--polygons requires --coco")
    if arguments.simplify and not arguments.polygons:
        raise Misuse("--simplify requires --polygons")
    if arguments.direction == "both" and arguments.last is not None:
        raise Misuse("--to requires --direction forward or backward: both goes to both ends")
    if arguments.coco is not None:
        require_data_set("--coco", arguments.coco)
    if arguments.overlay is not None:
        require_another("--overlay", arguments.overlay, map(Path, arguments.frames))
        if arguments.overlay.is_dir():
            raise Misuse(f"--overlay {arguments.overlay} is a folder: name a file")
        require_folder("--overlay", arguments.overlay)
        if arguments.overlay.suffix.lower() != ".mp4":
            raise Misuse(f"--overlay {arguments.overlay}: name a file that ends in .mp4")
        overlay_video.require()
    if arguments.output is not None and arguments.output.exists() and not arguments.output.is_dir():
        raise Misuse(f"-o {arguments.output} is a file: name a folder")


def _begin(
    client: Client, asked: Prompts, arguments: argparse.Namespace, *, shown: bool
) -> tuple[Track, Clip]:
    """Upload the video or the pictures, and begin the track."""
    path = Path(arguments.frames[0])
    if len(arguments.frames) == 1 and path.is_file() and path.suffix.lower() not in _PICTURES:
        _spare([path], asked, arguments)
        video = client.upload_video(path, fps=arguments.fps)
        tracked, fps = client.track(video), video.fps
        name = path.name

        def file_name(index: int) -> str:
            return f"{path.stem}/{index:06d}.jpg"
    else:
        files = _pictures(arguments.frames)
        if arguments.fps is not None and arguments.overlay is None:
            raise Misuse("--fps requires a video, or --overlay: pictures have no time")
        _spare(files, asked, arguments)
        tracked, fps = client.track(files, progress=shown), arguments.fps or _PICTURES_FPS
        name = path.as_posix() if path.is_dir() else files[0].parent.as_posix()

        def file_name(index: int) -> str:
            return files[index].as_posix()

    clip = Clip(name, tracked.width, tracked.height, tracked.frames, fps, file_name, tracked.picture)
    return tracked, clip


def _pictures(named: Sequence[str]) -> list[Path]:
    """Return the frames that are named, in order. Those of a folder are its own, as for Client.track."""
    found = list(named_files(named, suffixes=PICTURE_SUFFIXES))
    files = in_order(each.path for each in found if each.path.parent == each.root)
    taken = set(files)
    tell_left_out(
        [each.path for each in found if each.path not in taken],
        why="a folder within the one that is named may hold masks: name it too",
    )
    if not files:
        raise ValueError("there are no pictures in what is named")
    for each in files:
        if each.suffix.lower() in _VIDEOS and each.is_file():
            raise Misuse(f"{each} is a video: give its name alone, without a pattern or other files")
    return files


def _spare(inputs: Sequence[Path], asked: Prompts, arguments: argparse.Namespace) -> None:
    """Raise Misuse for an output in the place of what is read."""
    read = {each.resolve() for each in inputs}
    for option, file in (("--coco", arguments.coco), ("--overlay", arguments.overlay)):
        if file is not None and not read.isdisjoint({file.resolve(), partial_of(file).resolve()}):
            raise Misuse(f"{option} {file} would replace what is tracked: name another file")
    if arguments.output is not None:
        folders = {each.parent for each in read}
        for object_id in {each.object for each in asked.prompts}:
            if (folder := masks_of(arguments.output, object_id)).resolve() in folders:
                raise Misuse(
                    f"-o {arguments.output}: masks would replace frames in {folder}; name another folder"
                )


def _follow(
    tracked: Track, clip: Clip, asked: Prompts, arguments: argparse.Namespace, *, shown: bool
) -> bool:
    outputs: list[Output] = []
    if arguments.output is not None:
        outputs.append(MaskFiles(arguments.output))
    if arguments.coco is not None:
        simplify = arguments.simplify if arguments.polygons else None
        outputs.append(CocoFile(arguments.coco, clip, asked.label, simplify))
    if arguments.overlay is not None:
        outputs.append(OverlayFile(arguments.overlay, clip, in_order=arguments.direction == "forward"))
    frames = failed = 0
    is_complete = False
    try:
        for frame in tracked.propagate(
            arguments.first,
            arguments.last,
            arguments.direction,
            non_overlapping=arguments.non_overlapping,
            max_hole_area=arguments.max_hole_area,
            max_sprinkle_area=arguments.max_sprinkle_area,
            progress=shown,
        ):
            if frame.error is not None:
                failed += 1
                complain(f"frame {frame.index}: {frame.error}")
                continue
            for output in outputs:
                output.add(frame)
            frames += 1
        is_complete = True
    finally:
        close(outputs, is_complete=is_complete, frames=frames)
    if not frames:
        raise ValueError("nothing to write: no frame could be tracked")
    return not failed
