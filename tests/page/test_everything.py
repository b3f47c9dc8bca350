"""Everything on a picture, as a user sees, names and filters it on the page."""

import httpx
import pytest

from tests.page.conftest import PageServer
from tests.page.scene import BESIDE, CAT, INNER, LARGE, NOTHING, TRUCK, colour_at, find_all, move, named
from tests.page.test_access import CONTRASTS, NAMELESS
from tests.page.visitor import Visitor


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
def test_the_cross_names_and_takes_by_keyboard(visitor: Visitor) -> None:
    find_all(visitor)
    visitor.find("#stage").focus()
    visitor.press("ArrowLeft", "ArrowRight")
    visitor.until(lambda: "Found 1: predicted IoU 0.90" in visitor.find("#said").inner_text())
    visitor.press("Enter")
    visitor.until_seen(LARGE.mask)
    visitor.press("Escape", "Escape")
    visitor.until(lambda: colour_at(visitor, 460, 200) is None)


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
