"""Where the picture is after the window has changed, which buttons mean it, and what is drawn of its masks."""

from collections.abc import Callable

from playwright.sync_api import BrowserContext

from tests.fakes import picture
from tests.page.conftest import PageServer
from tests.page.fabricated import Object
from tests.page.scene import CAT, SCENE, TRUCK, answer, block
from tests.page.visitor import HEIGHT, WIDTH, Visitor
from tests.server import ROOT

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


def test_space_does_not_scroll_a_narrow_page_below_the_picture(visitor: Visitor) -> None:
    """The picture slid away under the pointer that was to move it."""
    visitor.page.set_viewport_size({"width": 800, "height": 440})
    visitor.add(TRUCK)
    visitor.find("#stage").focus()
    before, room = visitor.find("main").evaluate(
        "main => [main.scrollTop, main.scrollHeight - main.clientHeight]"
    )
    visitor.press("Space", "Space")
    visitor.page.wait_for_timeout(300)  # Chromium scrolls smoothly
    assert visitor.find("main").evaluate("main => main.scrollTop") == before < room


STEPS = """async () => {
  const find = (selector) => document.querySelector(selector), stage = find("#stage"), canvas = find("#masks");
  const button = (row, at) => find("#objects").children[row].querySelectorAll("button")[at].click();
  const press = (key) => stage.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const wheel = (deltaY) => stage.dispatchEvent(new WheelEvent("wheel", { deltaY, clientX: 400, clientY: 300 }));
  const steps = {
    select: () => button(1, 0), hide: () => button(0, 1), hideSelected: () => button(1, 1),
    undo: () => press("z"), redo: () => press("y"), showSelected: () => button(1, 1),
    show: () => button(0, 1), accept: () => press("a"),
    remove: () => button(2, 2), removeLast: () => button(2, 2), undoBoth: () => (press("z"), press("z")),
    zoom: () => wheel(-300), fit: () => press("0"),
    nextPicture: () => press("PageDown"), back: () => press("PageUp"),
  };
  const frames = async (count) => { while (count--) await new Promise(requestAnimationFrame); };
  const shown = async (count) => {
    await frames(count);
    return new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  };
  const differ = (one, other) => one.some((value, at) => value !== other[at]);
  const wrong = [], unseen = [];
  let before = await shown(2);
  for (const [name, step] of Object.entries(steps)) {
    step();
    let after = await shown(1);
    for (let frame = 0; frame < 100 && !differ(before, after); frame++) after = await shown(1);
    if (!differ(before, after)) unseen.push(name);
    stage.style.right = "1px"; // of another size, all is drawn
    await frames(2);
    stage.style.right = "";
    before = await shown(2);
    if (differ(after, before)) wrong.push(name);
  }
  button(3, 0);
  await shown(1);
  const painted = [], option = find("#names option");
  for (const step of [() => press("x"), () => press("a")]) {
    globalThis.painted = 0;
    step();
    await shown(1); // the mask that is selected, and then none but that one
    painted.push(globalThis.painted);
  }
  const leave = () => press("PageDown"); // before the sketches of the candidates are drawn
  new MutationObserver(leave).observe(find("#candidates"), { childList: true });
  button(3, 0);
  await shown(2);
  return { wrong, unseen, painted, listed: option.isConnected };
}"""
COUNTED = "export const paint = (...given) => (globalThis.painted++, draw(...given));\nfunction draw("


def count_painted(context: BrowserContext, server: PageServer) -> None:
    """Let pages count in `painted` how many masks they draw."""
    counted = (ROOT / "client/js/raster.js").read_text().replace("export function paint(", COUNTED)
    script = {"body": counted, "content_type": "text/javascript"}
    context.route(f"{server.url}client/raster.js", lambda route: route.fulfill(**script))


def test_masks_that_stay_as_they_are_are_kept_and_shown_as_when_drawn_afresh(
    context: BrowserContext, open_page: Callable[[PageServer], Visitor], server: PageServer
) -> None:
    """All were drawn at each change: with a hundred, a click took two seconds."""
    count_painted(context, server)
    answer(context, server.url, SCENE)
    visitor = open_page(server)
    visitor.add(TRUCK, CAT)
    visitor.press("s")
    visitor.find("#take-all").click()
    visitor.press("Escape", "n")
    visitor.click(300, 200)
    visitor.until(lambda: visitor.find("#objects .figure").last.inner_text() == "1.00")
    assert visitor.page.evaluate(STEPS) == {"wrong": [], "unseen": [], "painted": [1, 1], "listed": True}


MOVES = """async () => {
  const stage = document.querySelector("#stage"), canvas = document.querySelector("#masks");
  const frame = () => new Promise(requestAnimationFrame);
  const wheel = (deltaY) => stage.dispatchEvent(new WheelEvent("wheel", { deltaY, clientX: 400, clientY: 300 }));
  const shown = () => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.filter((_, at) => at % 4 === 3);
  };
  const share = (one, other) => one.filter((value, at) => !value !== !other[at]).length / one.length;
  const later = [], { setTimeout } = globalThis;
  globalThis.setTimeout = (call) => later.push(call);
  globalThis.painted = 0;
  const before = shown();
  for (const deltaY of [-200, -200, 50]) wheel(deltaY), await frame();
  await frame();
  const moving = shown(), painted = globalThis.painted;
  Object.assign(globalThis, { setTimeout });
  later.at(-1)();
  const rested = shown();
  stage.style.right = "1px"; // of another size, all is drawn
  await frame(), await frame();
  stage.style.right = "";
  await frame(), await frame();
  const afresh = shown();
  return { painted, moved: share(before, moving), blurred: share(moving, rested), wrong: share(rested, afresh) };
}"""


def test_many_masks_move_with_the_picture_and_are_drawn_when_it_rests(
    context: BrowserContext, open_page: Callable[[PageServer], Visitor], server: PageServer
) -> None:
    """All were drawn at every step of a zoom: with a hundred, two a second."""
    count_painted(context, server)
    squares = [
        Object(block(30 * (i % 4) + 20, 40 * (i // 4) + 20, 30 * (i % 4) + 40, 40 * (i // 4) + 50), 0.9)
        for i in range(12)
    ]
    answer(context, server.url, [each.reply() for each in squares])
    visitor = open_page(server)
    visitor.add(TRUCK)
    visitor.press("s")
    visitor.find("#take-all").click()
    visitor.press("Escape", "n")
    visitor.until(lambda: visitor.find("#objects li").count() == 12)
    seen = visitor.page.evaluate(MOVES)
    assert seen["painted"] == 0
    assert seen["wrong"] == 0
    assert seen["moved"] > 0.01
    assert seen["blurred"] < 0.2 * seen["moved"]  # only at edges


def test_a_picture_that_is_not_shown_is_removed_without_leaving_the_one_that_is(visitor: Visitor) -> None:
    """The page went to the neighbour of the one that was removed."""
    visitor.add(TRUCK, CAT, ("dog.png", picture(WIDTH, HEIGHT, shade=100)))
    visitor.find("[title='Remove dog.png']").click()
    visitor.until(lambda: visitor.find("#thumbnails li").count() == 2)
    assert visitor.find("[aria-current=true]").get_attribute("title") == "truck.png"
    visitor.find("[title='Remove truck.png']").click()
    assert visitor.find("[aria-current=true]").get_attribute("title") == "cat.png"


def test_a_click_that_is_let_go_on_the_next_picture_places_nothing_there(visitor: Visitor) -> None:
    """As of a hand that is faster than the other one: the click, or the box, was the next picture's."""
    visitor.add(TRUCK, CAT)
    for x in (100, 300):
        visitor.page.mouse.move(*visitor.place(100, 100))
        visitor.page.mouse.down()
        visitor.page.mouse.move(*visitor.place(x, x), steps=3)
        visitor.press("PageDown" if x == 100 else "PageUp")
        visitor.until_ready()
        visitor.page.mouse.up()
    visitor.page.wait_for_timeout(100)
    assert [
        thumbnail.get_attribute("aria-label") for thumbnail in visitor.find("#thumbnails .open").all()
    ] == [
        "truck.png, no objects",
        "cat.png, no objects",
    ]


def test_a_double_click_removes_no_second_picture_with_work_on_it(visitor: Visitor) -> None:
    """The next picture had come to its place, and went with all its objects."""
    visitor.add(TRUCK, CAT)
    visitor.press("PageDown")
    visitor.until_ready()
    visitor.click(100, 100)
    visitor.find("[aria-label='cat.png, 1 objects']").wait_for()
    visitor.find("[title='Remove truck.png']").dblclick()
    visitor.until(lambda: visitor.find("#thumbnails li").count() == 1)
    visitor.page.wait_for_timeout(100)
    assert visitor.find("#thumbnails .open").get_attribute("aria-label") == "cat.png, 1 objects"
    visitor.find("[title='Remove cat.png']").click()
    visitor.find("#welcome").wait_for()
