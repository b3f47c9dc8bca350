"""Two windows of the page: thumbnails of what the other one has changed."""

from collections.abc import Callable

import pytest

from tests.fakes import RADII, disc_mask
from tests.page.conftest import PageServer
from tests.page.scene import CAT, TRUCK
from tests.page.visitor import HEIGHT, WIDTH, Visitor

HOLD_ITS_RECORD = """(name) => {
  const { get } = IDBObjectStore.prototype;
  IDBObjectStore.prototype.get = function (id) {
    const real = get.call(this, id), held = {};
    real.onsuccess = () => {
      held.result = real.result;
      if (this.name !== "records" || real.result.name !== name) return held.onsuccess();
      window.held = true;
      window.release = () => held.onsuccess();
    };
    return held;
  };
}"""


@pytest.fixture
def caught_up(open_page: Callable[[PageServer], Visitor], server: PageServer) -> Visitor:
    """A window with a truck and a cat, that has taken over an object of the truck from another window."""
    visitor = open_page(server)
    visitor.add(TRUCK, CAT)
    visitor.until(lambda: "cat" in visitor.stored())
    other = open_page(server)
    other.until_ready()
    other.click(104, 104)
    other.until(lambda: '"counts"' in other.stored())
    visitor.until_back(lambda: visitor.find("#objects li").count() == 1)
    return visitor


def test_the_thumbnail_of_a_picture_that_another_window_has_changed_shows_it_as_it_is_now(
    caught_up: Visitor,
) -> None:
    """It showed the picture from before. All that was done there was gone with the next reload."""
    visitor = caught_up
    for name in ("cat.png", "truck.png"):
        visitor.find(f"[aria-label^='{name}']").click()
        visitor.until_ready()
    first = disc_mask(104.5, 104.5, RADII[2], height=HEIGHT, width=WIDTH)
    visitor.until_seen(first)
    visitor.find("#accept").click()
    visitor.click(504, 304)
    both = first | disc_mask(504.5, 304.5, RADII[2], height=HEIGHT, width=WIDTH)
    visitor.until_seen(both)
    visitor.until(lambda: visitor.stored().count('"answered":{') == 2)
    visitor.page.reload()
    visitor.until_seen(both)


def test_the_thumbnail_of_a_picture_that_another_window_has_changed_removes_it(caught_up: Visitor) -> None:
    """It removed the last picture of the list, with all work on it."""
    visitor = caught_up
    visitor.find("[title='Remove truck.png']").click()
    visitor.until(lambda: "truck.png" not in visitor.stored())
    assert "cat.png" in visitor.stored()
    assert visitor.find("[aria-current=true]").get_attribute("aria-label") == "cat.png, no objects"


def test_what_is_done_on_a_picture_while_others_are_still_read_is_kept(
    open_page: Callable[[PageServer], Visitor], server: PageServer
) -> None:
    """It was gone with the next reload."""
    visitor = open_page(server)
    visitor.add(TRUCK, CAT)
    visitor.until(lambda: "cat" in visitor.stored())
    other = open_page(server)
    other.until_ready()
    other.click(104, 104)
    other.until(lambda: other.stored().count('"answered":{') == 1)
    other.press("PageDown")
    other.until_ready()
    other.click(304, 104)
    other.until(lambda: other.stored().count('"answered":{') == 2)
    visitor.page.evaluate(HOLD_ITS_RECORD, "cat.png")
    visitor.until_back(lambda: visitor.page.evaluate("window.held === true"))
    visitor.press("n")
    visitor.click(504, 304)
    visitor.until(lambda: visitor.find("#objects .figure").all_inner_texts() == ["1.00", "1.00"])
    visitor.page.evaluate("release()")
    visitor.until(lambda: visitor.find("[aria-label='cat.png, 1 objects']").count() == 1)
    visitor.until(lambda: visitor.stored().count('"answered":{') == 3)
    visitor.page.reload()
    visitor.find("[aria-label='truck.png, 2 objects']").wait_for()


def test_an_answer_for_a_window_that_was_left_takes_nothing_back_in_the_other(
    open_page: Callable[[PageServer], Visitor], server: PageServer
) -> None:
    """What was done there after the answer was gone as soon as the pointer came back to the picture."""
    left = open_page(server)
    left.add(TRUCK)
    left.until(lambda: "truck" in left.stored())
    visitor = open_page(server)
    visitor.until_ready()
    server.segmenter.gate.clear()
    left.click(104, 104)
    left.until(lambda: '"points":[[104,104,1]]' in left.stored())
    visitor.until_back(lambda: visitor.find("#objects .figure").all_inner_texts() == ["…"])
    server.segmenter.gate.set()
    for window in (left, visitor):
        window.until(lambda of=window: of.find("#objects .figure").all_inner_texts() == ["1.00"])
        window.page.wait_for_timeout(200)  # until it is stored, and the other window has heard of it
    visitor.press("n")
    visitor.click(504, 304)
    visitor.until(lambda: visitor.find("#objects .figure").all_inner_texts() == ["1.00", "1.00"])
    visitor.page.mouse.move(5, 5)
    visitor.page.mouse.move(*visitor.place(300, 200))
    visitor.page.wait_for_timeout(300)
    assert visitor.find("#objects .figure").all_inner_texts() == ["1.00", "1.00"]
    left.until_back(lambda: left.find("#objects .figure").all_inner_texts() == ["1.00", "1.00"])
