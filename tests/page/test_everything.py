"""Everything on a picture, as a user sees, names, filters and takes it on the page."""

import io
import json
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Route
from pycocotools.coco import COCO

from tests.fakes import RADII, disc_mask, picture
from tests.page.conftest import PageServer
from tests.page.fabricated import Mask, Object, lines, striped_cell
from tests.page.test_access import CONTRASTS, NAMELESS
from tests.page.visitor import HEIGHT, WIDTH, Visitor

TRUCK, CAT = (("truck.png", picture(WIDTH, HEIGHT, shade=90)), ("cat.png", picture(WIDTH, HEIGHT, shade=200)))
NOTHING = np.zeros((HEIGHT, WIDTH), bool)
RGB = tuple[int, int, int]


def block(left: int, top: int, right: int, bottom: int, *, height: int = HEIGHT, width: int = WIDTH) -> Mask:
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


LARGE = Object(block(84, 84, 404, 324), 0.9, 0.8)
INNER = Object(block(164, 124, 244, 204), 0.7, 0.6)
BESIDE = Object(block(404, 84, 524, 324), 0.85)
POOR = Object(block(532, 0, 600, 84), 0.4)
SCENE = [found.reply() for found in (LARGE, INNER, BESIDE, POOR)]

_OVERLAY = """([x, y]) => {
  const canvas = document.getElementById("found");
  return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
}"""


@pytest.fixture
def answered(context: BrowserContext, server: PageServer) -> list[dict[str, object]]:
    """Answer every search with SCENE. Returns the bodies of the requests."""
    return answer(context, server, SCENE)


def answer(
    context: BrowserContext,
    server: PageServer,
    masks: Sequence[dict[str, Any]],
    *,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> list[dict[str, object]]:
    bodies: list[dict[str, object]] = []
    text = lines(masks, height=height, width=width)

    def reply(route: Route) -> None:
        assert route.request.headers["accept"] == "application/x-ndjson"
        bodies.append(json.loads(route.request.post_data or ""))
        route.fulfill(body=text, content_type="application/x-ndjson")

    context.route(f"{server.url}everything", reply)
    return bodies


def colour_at(visitor: Visitor, x: float, y: float) -> RGB | None:
    """Return the colour of what was found over a point of the picture, shown whole; None: nothing."""
    stage = visitor.find("#stage").bounding_box()
    assert stage is not None
    left, top = visitor.place(x, y)
    red, green, blue, alpha = visitor.page.evaluate(_OVERLAY, [left - stage["x"], top - stage["y"]])
    return (red, green, blue) if alpha else None


def find_all(visitor: Visitor) -> None:
    visitor.add(TRUCK)
    visitor.press("s")
    visitor.find("#everything-panel").wait_for()
    visitor.until(lambda: colour_at(visitor, 440, 200) is not None)


def move(visitor: Visitor, x: float, y: float) -> None:
    visitor.page.mouse.move(*visitor.place(x + 0.5, y + 0.5))


def named(visitor: Visitor) -> str:
    return visitor.find("#named").inner_text() if visitor.find("#named").is_visible() else ""


def test_all_objects_are_shown_in_colours_of_their_own(
    visitor: Visitor, answered: list[dict[str, object]]
) -> None:
    find_all(visitor)
    colours = [colour_at(visitor, *at) for at in ((100, 100), (200, 160), (460, 200))]
    assert None not in colours
    assert len(set(colours)) == 3
    assert colour_at(visitor, 40, 40) is None
    assert visitor.find("#found-count").inner_text() == "3 of 4"
    assert "3 objects found" in visitor.find("#said").inner_text()
    image_id = httpx.get(f"{visitor.url}images", trust_env=False).json()["images"][0]["image_id"]
    assert answered == [{"image_id": image_id, "pred_iou_thresh": 0.3}]  # 0.55, and room for the slider


def test_the_slider_filters_without_a_request_and_keeps_the_colours(
    visitor: Visitor, answered: list[dict[str, object]]
) -> None:
    find_all(visitor)
    large, beside = colour_at(visitor, 100, 100), colour_at(visitor, 460, 200)
    visitor.find("#threshold").fill("0.8")
    visitor.until(lambda: colour_at(visitor, 200, 160) == large)  # the inner one is gone
    assert colour_at(visitor, 460, 200) == beside
    assert visitor.find("#found-count").inner_text() == "2 of 4"
    visitor.find("#threshold").fill("0.3")
    visitor.until(lambda: colour_at(visitor, 560, 40) is not None)
    assert visitor.find("#found-count").inner_text() == "4"
    assert len(answered) == 1


@pytest.mark.usefixtures("answered")
def test_the_pointer_names_the_smallest_object_and_lights_it(visitor: Visitor) -> None:
    find_all(visitor)
    move(visitor, 200, 160)
    visitor.until_seen(INNER.mask)
    assert named(visitor).split("\n") == ["Found 3", "IoU 0.70 · stability 0.60 · 2.7 %"]
    visitor.press("w")
    visitor.until_seen(LARGE.mask)
    assert named(visitor).startswith("Found 1")
    move(visitor, 460, 200)
    visitor.until_seen(BESIDE.mask)
    move(visitor, 40, 40)
    visitor.until_seen(NOTHING)
    assert named(visitor) == ""


@pytest.mark.usefixtures("answered")
def test_a_click_takes_an_object_once_and_it_is_exported(visitor: Visitor, server: PageServer) -> None:
    find_all(visitor)
    colour = colour_at(visitor, 200, 160)
    visitor.click(200, 160)
    visitor.click(220, 180)
    visitor.until(lambda: "in the list already" in visitor.find("#said").inner_text())
    assert visitor.find("#objects li").count() == 1
    visitor.until_seen(INNER.mask)
    assert visitor.colour(200, 160) == pytest.approx(colour, abs=4)
    assert colour_at(visitor, 200, 160) is None, "it is not drawn twice"
    visitor.click(460, 200)
    visitor.until_seen(INNER.mask | BESIDE.mask)
    _, path = visitor.download(lambda: visitor.press("e"))
    exported = COCO(str(path)).dataset["annotations"]
    assert [each["segmentation"]["counts"] for each in exported] == [INNER.counts, BESIDE.counts]
    assert [each["predicted_iou"] for each in exported] == [0.7, 0.85]
    visitor.press("z", "z")
    visitor.until_seen(NOTHING)
    visitor.until(lambda: colour_at(visitor, 200, 160) == colour)
    visitor.press("y")
    visitor.until_seen(INNER.mask)
    assert server.prompts() == []


@pytest.mark.usefixtures("answered")
def test_a_larger_object_is_taken_after_it_is_gone_to(visitor: Visitor) -> None:
    find_all(visitor)
    move(visitor, 200, 160)
    visitor.until_seen(INNER.mask)
    visitor.press("w")
    visitor.until_seen(LARGE.mask)
    visitor.click(200, 160)
    visitor.until(lambda: visitor.find("#objects li").count() == 1)
    move(visitor, 40, 40)
    visitor.until_seen(LARGE.mask)


@pytest.mark.usefixtures("answered")
def test_all_are_taken_in_one_step(visitor: Visitor) -> None:
    find_all(visitor)
    visitor.click(460, 200)
    visitor.find("#take-all").click()
    visitor.until_seen(LARGE.mask | INNER.mask | BESIDE.mask)
    assert visitor.find("#objects li").count() == 3
    assert visitor.find("#take-all").is_disabled()
    visitor.press("z")
    visitor.until_seen(BESIDE.mask)


@pytest.mark.usefixtures("answered")
def test_other_gestures_mean_what_they_always_do(visitor: Visitor, server: PageServer) -> None:
    find_all(visitor)
    visitor.click(200, 160)  # taken
    visitor.drag((100, 100), (300, 260))
    visitor.until(lambda: len(server.prompts()) == 1)
    assert server.segmenter.decoded[0][0].box == pytest.approx((100, 100, 300, 260), abs=1)
    assert visitor.find("#objects li").count() == 2, "a taken object is done: a box does not replace it"
    visitor.press("n")
    visitor.click(200, 160, shift=True)
    visitor.until(lambda: len(server.prompts()) == 2)
    visitor.press("n")
    visitor.click(40, 360)  # nothing was found here
    visitor.until(lambda: len(server.prompts()) == 3)
    assert [labels for labels, _ in server.prompts()[1:]] == [(0,), (1,)]


@pytest.mark.usefixtures("answered")
def test_a_taken_object_is_refined_from_its_mask(visitor: Visitor, server: PageServer) -> None:
    find_all(visitor)
    visitor.click(200, 160)
    visitor.find("[aria-label='Select object 1, accepted']").click()
    visitor.click(300, 160, shift=True)
    visitor.until(lambda: server.prompts() == [((1, 0), True)])
    visitor.until_seen(disc_mask(200, 160, RADII[1], height=HEIGHT, width=WIDTH))
    assert visitor.alert() == ""


def test_clear_leaves_and_the_same_is_shown_again_without_a_request(
    visitor: Visitor, answered: list[dict[str, object]]
) -> None:
    find_all(visitor)
    visitor.find("#clear").click()
    visitor.until(lambda: colour_at(visitor, 460, 200) is None)
    assert not visitor.find("#everything-panel").is_visible()
    assert visitor.page.evaluate("document.activeElement.id") == "everything"
    visitor.find("#everything").click()
    visitor.until(lambda: colour_at(visitor, 460, 200) is not None)
    visitor.find("#threshold").focus()
    visitor.press("Escape")
    visitor.until(lambda: colour_at(visitor, 460, 200) is None)
    assert len(answered) == 1


def test_what_was_found_belongs_to_its_picture(visitor: Visitor, answered: list[dict[str, object]]) -> None:
    visitor.add(TRUCK, CAT)
    visitor.press("s")
    visitor.until(lambda: colour_at(visitor, 460, 200) is not None)
    visitor.press("PageDown")
    visitor.until(lambda: colour_at(visitor, 460, 200) is None)
    assert not visitor.find("#everything-panel").is_visible()
    visitor.press("PageUp")
    visitor.until(lambda: colour_at(visitor, 460, 200) is not None)
    assert len(answered) == 1


@pytest.mark.usefixtures("answered")
def test_it_moves_with_the_picture(visitor: Visitor) -> None:
    find_all(visitor)
    inner = colour_at(visitor, 200, 160)
    x, y = visitor.place(200.5, 160.5)
    visitor.page.mouse.move(x, y)
    visitor.page.mouse.wheel(0, -600)
    visitor.page.mouse.down(button="middle")
    visitor.page.mouse.move(x + 100, y + 60, steps=3)
    visitor.page.mouse.up(button="middle")
    stage = visitor.find("#stage").bounding_box()
    assert stage is not None
    moved = [x + 100 - stage["x"], y + 60 - stage["y"]]
    visitor.until(lambda: visitor.page.evaluate(_OVERLAY, moved)[:3] == pytest.approx(inner, abs=4))
    visitor.page.mouse.click(x + 100, y + 60)
    visitor.press("0")
    visitor.until_seen(INNER.mask)


def test_it_lies_on_a_turned_photograph_as_the_browser_shows_it(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    corner = Object(block(0, 0, 244, 204), 0.9)
    answer(context, server, [corner.reply()])
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (HEIGHT, WIDTH), 90).save(file, "JPEG", exif=exif)  # stored on its side
    visitor.add(("turned.jpg", file.getvalue()))
    visitor.press("s")
    visitor.until(lambda: colour_at(visitor, 200, 160) is not None)
    assert colour_at(visitor, 284, 160) is None
    assert colour_at(visitor, 200, 244) is None
    visitor.click(200, 160)
    visitor.until_seen(corner.mask)


@pytest.mark.usefixtures("answered")
def test_the_cross_names_and_takes_by_keyboard(visitor: Visitor) -> None:
    find_all(visitor)
    visitor.find("#stage").focus()
    visitor.press("ArrowLeft", "ArrowRight")
    visitor.until(lambda: "Found 1: predicted IoU 0.90" in visitor.find("#said").inner_text())
    visitor.press("Enter")
    visitor.until_seen(LARGE.mask)
    visitor.press("Escape", "Escape")
    visitor.until(lambda: colour_at(visitor, 460, 200) is None)


def test_the_server_finds_shows_its_progress_and_stops(visitor: Visitor, server: PageServer) -> None:
    """Everything by the service itself, around a segmenter that waits at its gate."""
    visitor.add(TRUCK, CAT)
    server.segmenter.gate.clear()
    waits = [
        lambda: visitor.press("Escape"),
        lambda: visitor.find("#stop").click(),
        lambda: visitor.press("PageDown"),
    ]
    for cancel in waits:
        visitor.find("#everything").click()
        visitor.until(lambda: "Looking for every object: 0 %" in visitor.find("#search").inner_text())
        cancel()
        visitor.find("#search").wait_for(state="hidden")
    server.segmenter.gate.set()
    visitor.until_ready()
    batches = len(server.segmenter.decoded)
    assert batches <= len(waits), "cancelled searches must not go on"
    assert visitor.alert() == ""
    assert not visitor.find("#everything-panel").is_visible()


def test_a_picture_that_was_forgotten_is_uploaded_again_and_searched(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """By the service itself, with fewer clicks than the page asks for."""

    def fewer(route: Route) -> None:
        route.continue_(
            post_data=json.dumps(json.loads(route.request.post_data or "") | {"points_per_side": 2})
        )

    context.route(f"{server.url}everything", fewer)
    visitor.add(TRUCK)
    (image,) = httpx.get(f"{server.url}images", trust_env=False).json()["images"]
    httpx.delete(f"{server.url}images/{image['image_id']}", trust_env=False)
    visitor.press("s")
    visitor.find("#everything-panel").wait_for()
    visitor.until(lambda: colour_at(visitor, 150, 100) is not None)
    assert len(server.segmenter.encoded) == 2
    assert visitor.alert() == ""
    move(visitor, 150, 100)
    visitor.until_seen(disc_mask(150, 100, RADII[1], height=HEIGHT, width=WIDTH))
    assert "IoU 0.90" in named(visitor)


FAILURES = {
    "a full queue": ({"status": 503, "headers": {"Retry-After": "60"}}, "Trying again in"),
    "the deadline": ({"status": 504}, "Try now"),
    "an error after the first step": (None, "Try now"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_errors_are_quoted_and_tried_again(
    visitor: Visitor, context: BrowserContext, server: PageServer, failure: str
) -> None:
    visitor.add(TRUCK)
    refusal, offer = FAILURES[failure]
    error = json.dumps({"error": {"code": "no_luck", "message": "No luck this time."}})
    replies = [
        {"body": error, "content_type": "application/json", **refusal}
        if refusal
        else {"body": '{"progress": 0.5, "found": 1}\n' + error + "\n"},
        {"body": lines(SCENE, height=HEIGHT, width=WIDTH)},
    ]
    context.route(f"{server.url}everything", lambda route: route.fulfill(**replies.pop(0)))
    visitor.press("s")
    visitor.until(lambda: "No luck this time." in visitor.alert())
    assert offer in visitor.alert()
    visitor.find("#retry").click()
    visitor.until(lambda: colour_at(visitor, 460, 200) is not None)
    assert visitor.alert() == ""


def test_a_connection_that_is_lost_halfway_is_asked_again(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    visitor.add(TRUCK)
    replies = ['{"progress": 0.5, "found": 1}\n', lines(SCENE, height=HEIGHT, width=WIDTH)]
    context.route(f"{server.url}everything", lambda route: route.fulfill(body=replies.pop(0)))
    visitor.press("s")
    visitor.until(lambda: "does not respond" in visitor.alert())
    visitor.find("#retry").click()
    visitor.until(lambda: colour_at(visitor, 460, 200) is not None)
    assert visitor.alert() == ""


def test_what_cannot_be_mended_is_told(visitor: Visitor, context: BrowserContext, server: PageServer) -> None:
    visitor.add(TRUCK)
    error = json.dumps({"error": {"code": "invalid_prompt", "message": "Not on this picture."}})
    context.route(
        f"{server.url}everything",
        lambda route: route.fulfill(status=422, body=error, content_type="application/json"),
    )
    visitor.press("s")
    visitor.until(lambda: "Not on this picture." in visitor.alert())
    assert not visitor.find("#search").is_visible()


def test_two_hundred_masks_of_twelve_megapixels_are_drawn_right(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """Each cell of a grid has a colour unlike its neighbours', at its place. Masks are large and have many runs."""
    height, width, columns, rows = 3000, 4000, 20, 10
    cells = [
        striped_cell(x * 200, y * 300, cell=(300, 200), size=(height, width))
        for y in range(rows)
        for x in range(columns)
    ]
    answer(context, server, cells, height=height, width=width)
    visitor.add(("large.png", picture(width, height, shade=90)))
    visitor.press("s")
    visitor.until(lambda: visitor.find("#found-count").inner_text() == "200")
    shown = np.array(visitor.page.evaluate(_GRID, [columns, rows, width, height]), int)
    assert shown.shape == (rows, columns, 4)
    assert (shown[..., 3] > 0).all()
    for axis in (0, 1):
        differences = np.abs(np.diff(shown[..., :3], axis=axis)).sum(-1)
        assert differences.min() > 40


_GRID = """async ([columns, rows, width, height]) => {
  for (const _ of "12") await new Promise(requestAnimationFrame);
  const canvas = document.getElementById("found"), context = canvas.getContext("2d");
  const margin = Math.min(24, canvas.width / 20);
  const scale = Math.min((canvas.width - 2 * margin) / width, (canvas.height - 2 * margin) / height);
  const [left, top] = [(canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2];
  const at = (column, row) => {
    const x = (column + 0.5) * width / columns * scale + left, y = (row * 300 + 18) * scale + top;
    return [...context.getImageData(x, y, 1, 1).data];
  };
  const range = (length) => Array.from({ length }, (_, index) => index);
  return range(rows).map((row) => range(columns).map((column) => at(column, row)));
}"""


def test_the_labels_are_the_smallest_masks_pixel_by_pixel(visitor: Visitor) -> None:
    """label_map.js at the picture's own size, where nothing is rounded, against numpy; and the hit test."""
    random = np.random.default_rng(3)
    height, width = 61, 83
    shapes = [random.random((height, width)) < share for share in (1, 0.7, 0.3, 0.02)]
    shapes.append(disc_mask(20, 30, 5, height=height, width=width))
    expected = np.zeros((height, width), int)
    for label, shape in enumerate(shapes, 1):
        expected[shape] = label
    replies = [Object(shape, 0.9).reply() for shape in shapes]
    masks = [{"counts": reply["rle"]["counts"], "bbox": reply["bbox"]} for reply in replies]
    labels, hits = visitor.page.evaluate(
        """async ([masks, width, height]) => {
          const { decodeRuns } = await import("./client/rle.js");
          const { layLabels, holds } = await import("./page/label_map.js");
          const size = { width, height }, labels = new Uint16Array(width * height);
          const runs = ({ counts, bbox }) => ({ ends: decodeRuns(counts, width * height), bbox });
          const layers = masks.map((mask, at) => ({ ...runs(mask), label: at + 1 }));
          layLabels(labels, layers, size, { scale: 1, x: 0, y: 0 }, size);
          const at = (index) => [Math.floor(index / height), index % height];
          const hits = layers.map((layer) => Array.from(labels, (_, index) => +holds(layer, at(index), size)));
          return [[...labels], hits];
        }""",
        [masks, width, height],
    )
    assert np.array_equal(np.reshape(labels, (width, height)).T, expected)
    for shape, hit in zip(shapes, hits, strict=True):
        assert np.array_equal(np.reshape(hit, (width, height)).T, shape)


@pytest.mark.usefixtures("answered")
def test_its_controls_have_names_and_can_be_read(visitor: Visitor) -> None:
    find_all(visitor)
    move(visitor, 200, 160)
    visitor.until_seen(INNER.mask)
    assert visitor.page.evaluate(NAMELESS) == []
    assert [entry for entry in visitor.page.evaluate(CONTRASTS) if entry[1] < 4.5] == []


def test_a_sample_picture_is_at_hand(visitor: Visitor, server: PageServer) -> None:
    visitor.find("[data-command=sample]").click()
    visitor.find("[aria-label='hats.jpg, no objects']").wait_for()
    assert server.segmenter.encoded == [[(341, 512)]]
