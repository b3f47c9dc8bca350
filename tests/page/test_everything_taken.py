"""Objects that are taken from everything on a picture: clicks, all at once, and what other gestures mean."""

import pytest
from pycocotools.coco import COCO

from tests.fakes import RADII, disc_mask
from tests.page.conftest import PageServer
from tests.page.scene import BESIDE, INNER, LARGE, NOTHING, colour_at, find_all, move
from tests.page.visitor import HEIGHT, WIDTH, Visitor


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
    assert [each["score"] for each in exported] == [0.7, 0.85]
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
    visitor.click(200, 160, held="Shift")
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
    visitor.click(300, 160, held="Shift")
    visitor.until(lambda: server.prompts() == [((1, 0), True)])
    visitor.until_seen(disc_mask(200, 160, RADII[1], height=HEIGHT, width=WIDTH))
    assert visitor.alert() == ""


def test_what_is_taken_can_be_asked_for_three_candidates(
    visitor: Visitor, answered: list[dict[str, object]]
) -> None:
    """The button began a new object, without a click and without a mask."""
    find_all(visitor)
    visitor.click(440, 200)
    visitor.find("#three").click()
    visitor.until(lambda: visitor.find("#candidates button").count() == 3)
    assert visitor.find("#objects li").count() == 1
    visitor.press("z")
    visitor.until(lambda: visitor.find("#objects .figure").inner_text() == "0.85")
    assert visitor.find("#objects .swatch").inner_text() == "✓"
