"""Where the picture is after the window has changed, and which buttons mean it."""

from playwright.sync_api import BrowserContext

from tests.page.scene import TRUCK
from tests.page.visitor import Visitor

PIXELS = """() => {
  const { width, height } = document.getElementById("picture");
  const { data } = document.getElementById("picture").getContext("2d").getImageData(0, 0, width, height);
  return data.filter((value, at) => at % 4 === 3 && value).length;
}"""


def test_a_moved_picture_stays_within_a_window_that_shrinks(visitor: Visitor) -> None:
    visitor.add(TRUCK)
    visitor.press(*"--------")
    visitor.page.mouse.move(*visitor.place(300, 200))
    visitor.page.mouse.down(button="middle")
    visitor.page.mouse.move(690, 590, steps=4)
    visitor.page.mouse.up(button="middle")
    visitor.page.set_viewport_size({"width": 930, "height": 430})
    visitor.page.wait_for_timeout(200)
    assert visitor.page.evaluate(PIXELS) > 100


def test_the_mouses_buttons_for_back_and_forward_place_no_click(
    visitor: Visitor, context: BrowserContext
) -> None:
    visitor.add(TRUCK)
    devtools = context.new_cdp_session(visitor.page)
    x, y = visitor.place(200, 150)
    for kind in ("mousePressed", "mouseReleased"):
        press = {"type": kind, "x": x, "y": y, "button": "forward", "buttons": 16, "clickCount": 1}
        devtools.send("Input.dispatchMouseEvent", press)
    visitor.page.wait_for_timeout(200)
    assert visitor.find("#objects li").count() == 0
    visitor.click(200, 150)
    visitor.find("#objects li").wait_for()


def test_space_moves_the_picture_until_it_is_released_or_the_window_is_left(visitor: Visitor) -> None:
    visitor.add(TRUCK)
    visitor.find("#stage").focus()
    visitor.page.keyboard.down("Space")
    visitor.drag((200, 150), (210, 160))
    visitor.page.evaluate("dispatchEvent(new Event('blur'))")
    visitor.page.wait_for_timeout(200)
    assert visitor.find("#objects li").count() == 0
    visitor.click(200, 150)
    visitor.find("#objects li").wait_for()
