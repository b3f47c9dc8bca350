"""The files that the page saves of a video, read with the libraries that users read them with."""

import io
import json
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.fakes import RADII, disc_mask
from tests.page.visitor import HEIGHT, WIDTH, Visitor
from tests.page.watcher import Watcher
from tests.small_videos import clip

FRAMES = 4
DISC = disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH)
OTHER = disc_mask(420, 300, RADII[2], height=HEIGHT, width=WIDTH)
AS_THE_COMMAND = {
    "id", "image_id", "video_id", "track_id", "category_id", "segmentation", "area", "bbox", "iscrowd",
    "score", "stability", "object_score",
}  # fmt: skip
"""The fields of an annotation, as `sam2 track --coco` writes them."""


@pytest.fixture
def watcher(visitor: Visitor) -> Watcher:
    """A visitor whose only object is tracked through a video."""
    return watching(visitor, clip(frames=FRAMES, size=(WIDTH, HEIGHT)))


def watching(visitor: Visitor, video: bytes) -> Watcher:
    watcher = Watcher(visitor)
    watcher.open(video, "my walk.mp4")
    visitor.click(200, 150)
    visitor.until_seen(DISC)
    visitor.find("#objects input").fill("dog")
    visitor.press("Enter")
    watcher.track()
    return watcher


def save(watcher: Watcher, kind: str) -> tuple[str, Path]:
    return watcher.visitor.download(watcher.visitor.find(f"[data-save={kind}]").click)


def test_coco_has_the_video_and_the_index_of_each_frame(
    watcher: Watcher, capsys: pytest.CaptureFixture[str]
) -> None:
    name, path = save(watcher, "coco")
    assert name == "coco.json"
    coco = COCO(str(path))
    coco.info()
    written = json.loads(path.read_text())
    (video,) = written["videos"]
    assert video == {
        "id": 1, "name": "my walk.mp4", "width": WIDTH, "height": HEIGHT, "length": FRAMES, "fps": 10.0,
    }  # fmt: skip
    assert [image["frame_index"] for image in written["images"]] == list(range(FRAMES))
    assert {image["video_id"] for image in written["images"]} == {video["id"]}
    assert written["images"][1]["file_name"] == "my walk/000001.jpg"
    assert [image["time_s"] for image in written["images"]] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert [each["track_id"] for each in written["annotations"]] == [1] * FRAMES
    assert written["annotations"][0].keys() == AS_THE_COMMAND
    assert 0 < written["annotations"][0]["score"] <= 1
    assert written["tracks"] == [{"id": 1, "video_id": 1, "category_id": 1, "name": "dog"}]
    assert np.array_equal(coco.annToMask(coco.anns[1]), DISC)
    assert capsys.readouterr()


def test_a_track_has_the_number_of_its_object_also_where_another_is_deleted(watcher: Watcher) -> None:
    """As `sam2 track --coco` numbers them, and masks.zip."""
    visitor = watcher.visitor
    visitor.press("a")
    visitor.click(420, 300)
    visitor.find("#objects li").nth(1).wait_for()
    visitor.find("#objects").get_by_role("button", name="Delete dog").click()
    visitor.until_seen(OTHER)
    _, path = save(watcher, "coco")
    written = json.loads(path.read_text())
    assert [each["id"] for each in written["tracks"]] == [2]
    assert {each["track_id"] for each in written["annotations"]} == {2}


def test_masks_are_a_png_for_each_frame(watcher: Watcher) -> None:
    name, path = save(watcher, "masks")
    assert name == "my-walk-masks.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"1-dog/{number:06}.png" for number in range(FRAMES)]
        image = Image.open(io.BytesIO(archive.read("1-dog/000000.png")))
        assert np.array_equal(np.asarray(image), DISC * np.uint8(255))


AS_FIREFOX = """() => {
  const { requestFrame } = CanvasCaptureMediaStreamTrack.prototype;
  delete CanvasCaptureMediaStreamTrack.prototype.requestFrame;
  MediaStream.prototype.requestFrame = function () {
    requestFrame.call(this.getVideoTracks()[0]);
  };
}"""
"""There it is the stream that is asked for a frame, not its track."""


@pytest.mark.parametrize("browser_is", ["() => {}", AS_FIREFOX], ids=["Chromium", "Firefox"])
def test_an_overlay_is_a_video_that_shows_frames_and_masks(watcher: Watcher, browser_is: str) -> None:
    watcher.visitor.page.evaluate(browser_is)
    for _ in range(3):  # it is encoded while it plays: a busy machine may drop a frame
        name, path = save(watcher, "overlay")
        assert name == "my walk-overlay.webm"
        with av.open(str(path)) as opened:
            frames = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
        if len(frames) >= FRAMES:
            break
    assert frames[0].shape == (HEIGHT, WIDTH, 3)
    assert FRAMES <= len(frames) <= FRAMES + 2
    for frame in frames:
        red, _, blue = frame[205:215, 195:205].reshape(-1, 3).mean(0)  # on the object, over grey
        assert blue > red + 40
        red, _, blue = frame[-20:, -20:].reshape(-1, 3).mean(0)
        assert abs(blue - red) < 10
    visitor = watcher.visitor
    visitor.until(watcher.button("Track all").is_visible)


def test_an_overlay_that_is_stopped_is_not_saved_and_nothing_to_export_is_said(visitor: Visitor) -> None:
    watcher = watching(visitor, clip(frames=2, size=(WIDTH, HEIGHT), times_ms=(0, 60_000)))
    visitor.find("[data-save=overlay]").click()
    watcher.button("Stop").click()
    watcher.until_tracked()
    assert visitor.alert() == ""
    visitor.find("[aria-label='Delete dog']").click()
    visitor.find("[data-save=coco]").click()
    visitor.until(lambda: "nothing to export" in visitor.alert())
