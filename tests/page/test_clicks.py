"""Clicks, boxes, candidates and objects, as a user sees them on the page."""

from collections.abc import Callable

import numpy as np
import pytest
from playwright.sync_api import Route

from tests.fakes import RADII, disc_mask, picture
from tests.page.conftest import PageServer
from tests.page.visitor import HEIGHT, WIDTH, Visitor

SMALL, MIDDLE, LARGE = RADII
TRUCK = ("truck.png", picture(WIDTH, HEIGHT, shade=90))


def disc(x: float, y: float, radius: float) -> np.ndarray:
    return disc_mask(x, y, radius, height=HEIGHT, width=WIDTH)


def test_a_click_is_covered_by_its_mask(visitor: Visitor, server: PageServer) -> None:
    visitor.add(TRUCK)
    visitor.click(200, 150)
    visitor.until_seen(disc(200, 150, LARGE))
    assert server.prompts() == [((1,), False)]


def test_what_is_not_the_object_refines_the_mask_before(visitor: Visitor, server: PageServer) -> None:
    visitor.add(TRUCK)
    visitor.click(200, 150)
    visitor.until_seen(disc(200, 150, LARGE))
    visitor.click(300, 150, held="Shift")
    visitor.until_seen(disc(200, 150, MIDDLE))
    visitor.click(320, 150, button="right")
    visitor.until(lambda: len(server.prompts()) == 3)
    visitor.click(340, 150, held="Control")  # the right click of a Mac with one button
    visitor.until(lambda: len(server.prompts()) == 4)
    assert server.prompts()[1:] == [((1, 0), True), ((1, 0, 0), True), ((1, 0, 0, 0), True)]


def test_without_refining_the_mask_before_stays_behind(visitor: Visitor, server: PageServer) -> None:
    visitor.add(TRUCK)
    visitor.press("r")
    visitor.click(200, 150)
    visitor.until_seen(disc(200, 150, LARGE))
    visitor.click(300, 150)
    visitor.until(lambda: len(server.prompts()) == 2)
    assert server.prompts()[1] == ((1, 1), False)


def test_a_box_is_dragged(visitor: Visitor, server: PageServer) -> None:
    visitor.add(TRUCK)
    visitor.drag((100, 100), (300, 260))
    visitor.until_seen(disc(200, 180, MIDDLE))
    assert server.segmenter.decoded[0][0].box == pytest.approx((100, 100, 300, 260), abs=1)


def test_candidates_are_chosen_by_key_and_by_button(visitor: Visitor) -> None:
    visitor.add(TRUCK)
    visitor.click(300, 200)
    visitor.until_seen(disc(300, 200, LARGE))
    candidates = visitor.find("#candidates button")
    assert candidates.all_inner_texts() == ["1.00", "0.90", "0.50"]
    visitor.press("3")
    visitor.until_seen(disc(300, 200, SMALL))
    candidates.nth(1).click()
    visitor.until_seen(disc(300, 200, MIDDLE))
    assert [button.get_attribute("aria-pressed") for button in candidates.all()] == ["false", "true", "false"]


def test_three_candidates_can_be_asked_for(visitor: Visitor) -> None:
    visitor.add(TRUCK)
    visitor.click(300, 200)
    visitor.until_seen(disc(300, 200, LARGE))
    visitor.click(310, 200)
    visitor.until(lambda: visitor.find("#candidates button").count() == 1)
    visitor.find("#three").click()
    visitor.until(lambda: visitor.find("#candidates button").count() == 3)


def test_undo_and_redo_need_no_server(visitor: Visitor, server: PageServer) -> None:
    visitor.add(TRUCK)
    assert visitor.find("#undo").is_disabled()
    visitor.click(200, 150)
    visitor.until_seen(disc(200, 150, LARGE))
    visitor.press("2")
    visitor.until_seen(disc(200, 150, MIDDLE))
    visitor.press("Control+z")
    visitor.until_seen(disc(200, 150, LARGE))
    visitor.find("#undo").click()
    visitor.until_seen(np.zeros((HEIGHT, WIDTH), bool))
    visitor.press("y", "Control+Shift+z")
    visitor.until_seen(disc(200, 150, MIDDLE))
    assert len(server.prompts()) == 1


def test_a_click_is_answered_though_its_user_went_on_before(visitor: Visitor, server: PageServer) -> None:
    """N, A and another picture within the time that an answer takes, as those press them who know the keys."""
    visitor.add(TRUCK, ("bus.png", picture(WIDTH, HEIGHT, shade=120)))
    visitor.find("[aria-label='bus.png, no objects']").wait_for()
    server.segmenter.gate.clear()
    visitor.click(100, 100)
    visitor.press("n")
    visitor.click(300, 200)
    server.segmenter.gate.set()
    visitor.until(lambda: visitor.find("#objects .figure").all_inner_texts() == ["1.00", "1.00"])
    visitor.until_seen(disc(100, 100, LARGE) | disc(300, 200, LARGE))
    server.segmenter.gate.clear()
    visitor.click(320, 200)
    visitor.press("a")
    visitor.click(500, 320)
    visitor.press("PageDown")
    server.segmenter.gate.set()
    visitor.until(lambda: ((1, 1), True) in server.prompts())
    visitor.press("PageUp")
    visitor.until(lambda: visitor.find("#objects .figure").all_inner_texts() == ["1.00", "0.75", "1.00"])
    visitor.until_seen(disc(100, 100, LARGE) | disc(300, 200, MIDDLE) | disc(500, 320, LARGE))


def test_a_refused_click_that_was_left_takes_nothing_else_back(visitor: Visitor) -> None:
    visitor.add(TRUCK)
    asked: list[Route] = []
    visitor.page.route("**/decode", lambda route: asked.append(route))
    visitor.click(100, 100)
    visitor.until(lambda: len(asked) == 1)
    visitor.press("n")
    visitor.find("#objects input").fill("wheel")
    visitor.find("#objects input").press("Enter")
    asked[0].fulfill(status=422, json={"error": {"code": "invalid_prompt", "message": "No such click."}})
    visitor.until(lambda: visitor.alert().startswith("No such click."))
    assert visitor.find("#objects input").input_value() == "wheel"
    visitor.page.wait_for_timeout(200)
    assert len(asked) == 1


def test_objects_have_names_and_colours_of_their_own(visitor: Visitor) -> None:
    visitor.add(TRUCK)
    visitor.click(150, 200)
    visitor.until_seen(disc(150, 200, LARGE))
    visitor.press("3", "a")
    visitor.click(450, 200)
    both = disc(150, 200, SMALL) | disc(450, 200, LARGE)
    visitor.until_seen(both)
    left, right = visitor.colour(152, 200), visitor.colour(448, 200)
    assert max(abs(a - b) for a, b in zip(left, right, strict=True)) > 50
    visitor.find("#objects input").first.fill("wheel")
    visitor.find("#objects input").first.press("Enter")
    assert visitor.find("#objects input").nth(1).input_value() == "object 2"
    visitor.find("[aria-label='Show wheel']").click()
    visitor.until_seen(disc(450, 200, LARGE))
    visitor.find("[aria-label='Delete object 2']").click()
    visitor.until_seen(np.zeros((HEIGHT, WIDTH), bool))
    visitor.press("z", "z")
    visitor.until_seen(both)


def test_a_preview_follows_the_pointer_and_leaves_with_it(visitor: Visitor, server: PageServer) -> None:
    connections: list[str] = []
    visitor.page.on("websocket", lambda socket: connections.append(socket.url))
    visitor.add(TRUCK)
    visitor.press("h")
    server.segmenter.gate.clear()
    for x in range(100, 300, 5):
        visitor.page.mouse.move(*visitor.place(x, 200))
    server.segmenter.gate.set()
    visitor.page.mouse.move(*visitor.place(300, 200))
    visitor.until_seen(disc(300, 200, LARGE))
    assert len(server.prompts()) <= 3, "the newest wins, and nothing waits in line"
    assert connections == [f"{visitor.url.replace('http', 'ws')}decode/stream"]
    visitor.page.keyboard.down("Control")
    visitor.page.mouse.move(*visitor.place(310, 200))
    visitor.until(lambda: server.prompts()[-1][0] == (0,))
    visitor.page.keyboard.up("Control")
    visitor.page.mouse.move(5, 5)
    visitor.until_seen(np.zeros((HEIGHT, WIDTH), bool))
    assert visitor.find("#objects li").count() == 0


def test_what_a_click_costs_and_the_command_that_does_the_same(visitor: Visitor) -> None:
    visitor.add(TRUCK)
    visitor.click(200, 150)
    visitor.until_seen(disc(200, 150, LARGE))
    assert visitor.find("#round-trip").inner_text().endswith(" ms")
    assert "device" in visitor.find("#stages").inner_text()
    command = visitor.find("#curl").inner_text()
    assert command.startswith(f"curl {visitor.url}decode -d '{{")
    assert '"point_coords":[[200,150]],"point_labels":[1]' in command


def test_zoom_and_pan_move_what_a_click_means(visitor: Visitor, server: PageServer) -> None:
    visitor.add(TRUCK)
    at = visitor.place(200.5, 150.5)
    visitor.page.mouse.move(*at)
    visitor.page.mouse.wheel(0, -400)
    visitor.until(lambda: visitor.find("#zoom").inner_text() not in ("100 %", "145 %"))
    visitor.page.mouse.click(*at)
    visitor.until(lambda: len(server.prompts()) == 1)
    assert server.segmenter.decoded[0][0].points == ((200, 150),)
    visitor.page.mouse.down(button="middle")
    visitor.page.mouse.move(at[0] + 60, at[1] + 40, steps=3)
    visitor.page.mouse.up(button="middle")
    visitor.press("n")
    visitor.page.mouse.click(at[0] + 60, at[1] + 40)
    visitor.until(lambda: len(server.prompts()) == 2)
    assert server.segmenter.decoded[1][0].points == ((200, 150),)
    visitor.press("0", "z", "z")
    visitor.click(300, 200)
    visitor.until_seen(disc(300, 200, LARGE))


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(visitor: Visitor, way: str) -> None:
    script = """([way, bytes]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], "cat.png", { type: "image/png" }));
      const event = way === "drop"
        ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
      document.body.dispatchEvent(event);
    }"""
    visitor.page.evaluate(script, [way, list(TRUCK[1])])
    visitor.until(lambda: visitor.find("#thumbnails li").count() == 1)
    visitor.until_ready()
    visitor.click(200, 150)
    visitor.until_seen(disc(200, 150, LARGE))


def test_every_picture_keeps_its_own_objects(visitor: Visitor) -> None:
    visitor.add(TRUCK, ("cat.png", picture(WIDTH, HEIGHT, shade=200)))
    visitor.click(200, 150)
    visitor.until_seen(disc(200, 150, LARGE))
    visitor.press("PageDown")
    visitor.until_seen(np.zeros((HEIGHT, WIDTH), bool))
    visitor.until_ready()
    visitor.click(400, 250)
    visitor.until_seen(disc(400, 250, LARGE))
    visitor.find("#thumbnails .open").first.click()
    visitor.until_seen(disc(200, 150, LARGE))


def test_a_reload_keeps_everything(visitor: Visitor, server: PageServer) -> None:
    visitor.add(TRUCK, ("cat.png", picture(WIDTH, HEIGHT, shade=200)))
    visitor.click(200, 150)
    visitor.until_seen(disc(200, 150, LARGE))
    visitor.press("3")
    visitor.find("#objects input").fill("wheel")
    visitor.find("#objects input").press("Enter")
    visitor.until(lambda: len(server.segmenter.encoded) == 2)
    visitor.until(lambda: "wheel" in visitor.stored())
    visitor.page.reload()
    visitor.until_seen(disc(200, 150, SMALL))
    assert visitor.find("#objects input").input_value() == "wheel"
    assert visitor.find("#thumbnails li").count() == 2
    visitor.click(300, 150)
    visitor.until_seen(disc(200, 150, MIDDLE))
    assert server.prompts() == [((1,), False), ((1, 1), True)]
    assert len(server.segmenter.encoded) == 2


BREAK_ONE_READ = """() => {
  const { get } = IDBObjectStore.prototype;
  IDBObjectStore.prototype.get = () => {
    IDBObjectStore.prototype.get = get;
    throw new DOMException("broken");
  };
}"""


def test_two_windows_do_not_undo_each_others_work(
    open_page: Callable[[PageServer], Visitor], server: PageServer
) -> None:
    """The window that wrote last had won: objects of the other were gone after a reload."""
    first = open_page(server)
    first.add(TRUCK)
    first.until(lambda: "truck" in first.stored())
    second = open_page(server)
    second.until_ready()
    second.click(100, 100)
    second.until(lambda: second.find("#objects .figure").all_inner_texts() == ["1.00"])
    second.find("#objects input").fill("wheel")
    second.find("#objects input").press("Enter")
    second.find("#accept").click()
    second.add(("cat.png", picture(WIDTH, HEIGHT, shade=200)))
    second.until(lambda: "wheel" in second.stored())
    first.page.evaluate(BREAK_ONE_READ)  # what could not be read is read at the next use
    for _ in range(2):
        first.page.mouse.move(5, 5)
        first.page.mouse.move(*first.place(300, 200))
        first.find("[aria-label='cat.png, no objects']").wait_for()
    first.until_ready()
    first.until_seen(disc(100, 100, LARGE))
    first.click(500, 300)
    first.until(lambda: first.find("#objects .figure").all_inner_texts() == ["1.00", "1.00"])
    first.find("[title='Remove cat.png']").click()
    second.until_back(lambda: second.find("#thumbnails li").count() == 1)
    second.until_back(lambda: second.find("#objects li").count() == 2)
    names = [element.input_value() for element in second.find("#objects input").all()]
    assert names == ["wheel", "object 2"]
    second.until_seen(disc(100, 100, LARGE) | disc(500, 300, LARGE))


def test_a_name_belongs_to_the_picture_on_which_it_was_typed(visitor: Visitor) -> None:
    """The next picture took the field over: the name was lost, and rendering failed."""
    visitor.add(TRUCK)
    visitor.click(100, 100)
    visitor.until_seen(disc(100, 100, LARGE))
    visitor.find("#objects input").fill("wheel")
    visitor.add(("cat.png", picture(WIDTH, HEIGHT, shade=200)))
    visitor.until(lambda: visitor.find("#objects li").count() == 0)
    visitor.press("PageUp")
    visitor.until_seen(disc(100, 100, LARGE))
    assert visitor.find("#objects input").input_value() == "wheel"
