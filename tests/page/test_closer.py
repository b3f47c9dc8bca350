"""A closer look on the page: clicks on a small object are decoded on the part around it; all else stays."""

import json
import re
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.fakes import RADII, disc_mask, picture
from tests.page.conftest import PageServer
from tests.page.visitor import HEIGHT, WIDTH, Visitor

SMALL, MIDDLE, LARGE = RADII
TRUCK = ("truck.png", picture(WIDTH, HEIGHT, shade=90))
NOTHING = np.zeros((HEIGHT, WIDTH), bool)
LATE = {"page/closer.js", "client/closer.js", "client/runs.js"}


def disc(x: float, y: float, radius: float) -> np.ndarray:
    return disc_mask(x, y, radius, height=HEIGHT, width=WIDTH)


FIRST = disc(200, 150, SMALL)
"""What the fake makes of the first click; around it is the first part."""


def region_around(mask: np.ndarray) -> tuple[int, int, int, int]:
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis))[[0, -1]] + (0, 1) for axis in (1, 0))
    side = round(1.6 * max(right - left, bottom - top))
    x0, y0 = int((left + right - side) / 2 + 0.5), int((top + bottom - side) / 2 + 0.5)
    return x0, y0, x0 + side, y0 + side


REGION = region_around(FIRST)


def found_at(x: float, y: float, radius: float, region: tuple[int, int, int, int] = REGION) -> np.ndarray:
    x0, y0, x1, y1 = region
    mask = NOTHING.copy()
    mask[y0:y1, x0:x1] = disc_mask(x - x0, y - y0, radius, height=y1 - y0, width=x1 - x0)
    return mask


CLOSER = found_at(200, 150, MIDDLE)
"""What the fake makes of more clicks in that part. With a click at 245 it needs so much of it that it is kept."""


class Looker:
    """A visitor who has clicked on a small object. `asked` are the requests for masks."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.asked: list[dict[str, Any]] = []
        visitor.page.on("request", self._note)
        visitor.add(TRUCK)
        visitor.click(200, 150)
        visitor.until_seen(disc(200, 150, LARGE))
        visitor.press("3")
        visitor.until_seen(FIRST)

    def click(self, x: float, y: float, expected: np.ndarray) -> dict[str, Any]:
        """Click, and wait for the mask. Returns what was asked for."""
        before = len(self.asked)
        self.visitor.click(x, y)
        self.until_asked(before + 1)
        self.visitor.until_seen(expected)
        return self.asked[-1]

    def until_asked(self, times: int) -> None:
        self.visitor.until(lambda: len(self.asked) == times)

    def _note(self, request: Any) -> None:
        if request.url.endswith("/decode"):
            self.asked.append(json.loads(request.post_data))


@pytest.fixture
def looker(visitor: Visitor) -> Looker:
    return Looker(visitor)


def frame_at(visitor: Visitor, x: float, y: float) -> bool:
    """Whether something is drawn over the masks at a point of the picture."""
    stage = visitor.find("#stage").bounding_box()
    assert stage is not None
    left, top = visitor.place(x, y)
    script = """([x, y]) => {
      const { data } = document.getElementById("marks").getContext("2d").getImageData(x - 2, y - 2, 5, 5);
      return data.some(Boolean);
    }"""
    return bool(visitor.page.evaluate(script, [left - stage["x"], top - stage["y"]]))


def test_a_small_object_is_refined_in_the_part_around_it(looker: Looker, server: PageServer) -> None:
    visitor = looker.visitor
    assert not [url for url in visitor.requests if any(each in url for each in LATE)]
    visitor.press("c")
    assert visitor.find("#closer").get_attribute("aria-pressed") == "true"
    body = looker.click(245, 150, CLOSER)
    assert [each for each in LATE if not any(url.endswith(each) for url in visitor.requests)] == []
    x0, y0, x1, y1 = REGION
    assert server.segmenter.encoded == [[(HEIGHT, WIDTH)], [(y1 - y0, x1 - x0)]]
    assert body["image_id"] != looker.asked[0]["image_id"]
    assert body["point_coords"] == [[200 - x0, 150 - y0], [245 - x0, 150 - y0]]
    assert body["mask_input"]["size"] == [y1 - y0, x1 - x0], "logits of the whole picture are of no use here"
    assert f'"image_id":"{body["image_id"]}"' in visitor.find("#curl").inner_text()
    assert visitor.find("#said").inner_text().endswith("A closer look.")
    assert frame_at(visitor, x0, (y0 + y1) / 2)
    again = looker.click(190, 150, CLOSER)
    assert again["image_id"] == body["image_id"]
    assert isinstance(again["mask_input"], str), "logits of the same part"
    assert len(server.segmenter.encoded) == 2
    _, path = visitor.download(lambda: visitor.press("e"))
    (annotation,) = COCO(str(path)).dataset["annotations"]
    coco = COCO(str(path))
    assert np.array_equal(coco.annToMask(annotation).astype(bool), CLOSER)
    assert annotation["area"] == CLOSER.sum()


def test_off_it_is_refined_on_the_whole_picture_from_its_pixels(looker: Looker, server: PageServer) -> None:
    visitor = looker.visitor
    visitor.press("c")
    looker.click(245, 150, CLOSER)
    visitor.find("#closer").click()
    body = looker.click(190, 150, disc(200, 150, MIDDLE))
    assert body["image_id"] == looker.asked[0]["image_id"]
    assert body["mask_input"]["size"] == [HEIGHT, WIDTH]
    x0, y0, _, y1 = REGION
    assert not frame_at(visitor, x0, (y0 + y1) / 2)
    visitor.press("c", "r")
    assert visitor.find("#closer").is_disabled(), "what is not refined is not looked at"


def test_the_first_click_and_large_objects_are_of_the_whole_picture(
    looker: Looker, server: PageServer
) -> None:
    visitor = looker.visitor
    visitor.press("c", "n")
    looker.click(400, 250, FIRST | disc(400, 250, LARGE))
    looker.click(410, 250, FIRST | disc(400, 250, MIDDLE))
    assert len(server.segmenter.encoded) == 1
    assert isinstance(looker.asked[-1]["mask_input"], str)


def test_a_click_beyond_the_part_has_a_part_of_its_own(looker: Looker, server: PageServer) -> None:
    visitor = looker.visitor
    visitor.press("c")
    looker.click(245, 150, CLOSER)
    visitor.click(330, 150, button="right")
    visitor.until(lambda: len(server.segmenter.encoded) == 3)
    looker.until_asked(3)
    ((height, width),) = server.segmenter.encoded[-1]
    assert height == width > REGION[2] - REGION[0]
    assert looker.asked[-1]["mask_input"]["size"] == [height, width]
    assert looker.asked[-1]["point_labels"] == [1, 1, 0]
    visitor.until(lambda: visitor.find("#objects .figure").inner_text() == "0.75")
    visitor.press("z")
    visitor.until_seen(CLOSER)
    looker.click(190, 150, CLOSER)
    assert isinstance(looker.asked[-1]["mask_input"], str), "where it was found before"
    assert len(server.segmenter.encoded) == 3


def test_a_reload_and_a_server_that_has_forgotten_the_part(looker: Looker, server: PageServer) -> None:
    visitor = looker.visitor
    visitor.press("c")
    looker.click(245, 150, CLOSER)
    visitor.until(lambda: '"region"' in visitor.stored())
    visitor.page.reload()
    visitor.until(lambda: visitor.find("#closer").get_attribute("aria-pressed") == "true")
    visitor.until_seen(CLOSER)
    looker.click(190, 150, CLOSER)
    assert len(server.segmenter.encoded) == 2, "the server has the part"
    server.forget()
    visitor.click(195, 150)
    visitor.until(lambda: len(server.segmenter.encoded) == 3)
    looker.until_asked(5)
    visitor.until(lambda: visitor.find("#objects .figure").inner_text() == "0.75")
    assert len(looker.asked[-1]["point_coords"]) == 4
    assert visitor.alert() == ""


def test_a_newer_click_and_another_picture_do_not_disturb_it(looker: Looker, server: PageServer) -> None:
    visitor = looker.visitor
    visitor.add(("cat.png", picture(WIDTH, HEIGHT, shade=200)))
    visitor.press("PageUp", "c")
    visitor.until_seen(FIRST)
    server.segmenter.gate.clear()
    visitor.click(220, 150)
    visitor.until(lambda: len(server.segmenter.encoded) == 3)
    assert visitor.find("#progress").inner_text() == "Looking closer"
    visitor.click(233, 150)
    visitor.click(190, 150)
    visitor.press("PageDown")
    visitor.until(visitor.find("#progress").is_hidden)
    server.segmenter.gate.set()
    visitor.until(lambda: ((1, 1, 1, 1), True) in server.prompts())
    visitor.press("PageUp")
    visitor.until_seen(CLOSER)
    assert visitor.find("#progress").is_hidden()
    assert [len(body["point_coords"]) for body in looker.asked] == [1, 4]
    sent = [url for url in visitor.requests if url.endswith("/embed")]
    assert len(sent) == 3, "the part that is coming serves the newer clicks"


def test_a_click_beyond_the_part_that_is_coming_has_one_of_its_own(
    looker: Looker, server: PageServer
) -> None:
    visitor = looker.visitor
    visitor.press("c")
    server.segmenter.gate.clear()
    visitor.click(220, 150)
    visitor.until(lambda: len(server.segmenter.encoded) == 2)
    visitor.click(330, 150, button="right")
    visitor.until(lambda: len([url for url in visitor.requests if url.endswith("/embed")]) == 3)
    server.segmenter.gate.set()
    visitor.until(lambda: ((1, 1, 0), True) in server.prompts())
    looker.until_asked(2)
    ((height, width),) = server.segmenter.encoded[-1]
    assert height == width > REGION[2] - REGION[0]
    visitor.until(lambda: visitor.find("#objects .figure").inner_text() == "0.75")
    assert visitor.find("#progress").is_hidden()
    assert visitor.alert() == ""


def test_a_server_that_is_gone_is_waited_for_until_it_is_switched_off(looker: Looker) -> None:
    """The look was given up without a word, or went on being asked for after it was switched off."""
    visitor, held, gone = looker.visitor, list[Any](), [True]
    visitor.page.route(re.compile("/embed$"), lambda route: held.append(route))
    visitor.page.route(
        re.compile("page/closer.js$|/healthz$"),
        lambda route: route.abort() if gone else route.continue_(),
    )
    visitor.press("c")
    visitor.click(220, 150)
    visitor.until(lambda: "does not respond" in visitor.alert())
    gone.clear()
    visitor.find("#retry").click()
    visitor.until(lambda: len(held) == 1)
    assert visitor.alert() == ""
    visitor.press("c")
    visitor.until_seen(disc(200, 150, MIDDLE))
    assert looker.asked[-1]["image_id"] == looker.asked[0]["image_id"]
    visitor.press("z", "c")
    visitor.until_seen(FIRST)
    visitor.click(245, 150)
    held[0].continue_()
    visitor.until_seen(CLOSER)
    looker.until_asked(3)
    assert len(held) == 1, "the part that was coming serves now"


def test_what_cannot_be_cut_out_is_refined_as_a_whole_and_said_once(
    looker: Looker, server: PageServer
) -> None:
    visitor = looker.visitor
    visitor.page.evaluate(
        "() => { OffscreenCanvas.prototype.convertToBlob = () => Promise.reject(Error('Broken.')) }"
    )
    visitor.press("c")
    looker.click(220, 150, disc(200, 150, MIDDLE))
    assert visitor.alert().startswith("truck.png is refined without a closer look. Broken.")
    assert isinstance(looker.asked[-1]["mask_input"], str)
    visitor.find("#dismiss").click()
    visitor.press("z")
    visitor.until_seen(FIRST)
    looker.click(190, 150, disc(200, 150, MIDDLE))
    assert visitor.alert() == ""
    assert len(server.segmenter.encoded) == 1
    visitor.press("z", "c", "c")
    visitor.until_seen(FIRST)
    looker.click(195, 150, disc(200, 150, MIDDLE))
    assert visitor.alert().startswith("truck.png is refined without a closer look. Broken."), "tried again"


def test_a_preview_is_of_the_part(looker: Looker, server: PageServer) -> None:
    visitor = looker.visitor
    visitor.press("c")
    looker.click(245, 150, CLOSER)
    visitor.press("h")
    visitor.page.mouse.move(*visitor.place(190, 150))
    visitor.until(lambda: len(server.prompts()) == 3)
    x0, y0, *_ = REGION
    assert server.segmenter.decoded[-1][0].points[-1] == (190 - x0, 150 - y0)
    visitor.page.wait_for_timeout(100)
    assert visitor.sees(CLOSER)
