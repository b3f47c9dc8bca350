"""A video that is left, or forgotten by the server, while a frame is on its way; and a frame that is typed."""

import httpx
from playwright.sync_api import BrowserContext, Route

from tests.fakes import RADII, disc_mask
from tests.page.conftest import PageServer
from tests.page.scene import TRUCK
from tests.page.visitor import HEIGHT, WIDTH, Visitor
from tests.page.watcher import Watcher
from tests.small_videos import clip

DISC = disc_mask(200.5, 150.5, RADII[2], height=HEIGHT, width=WIDTH)


def test_a_frame_that_comes_after_its_video_was_left_and_come_back_to_is_shown(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """Its memory had been given back by then: the stage stayed empty, and took no click."""
    visitor.add(TRUCK)
    held: list[Route] = []
    is_held = True
    context.route(
        f"{server.url}videos/*/frames/0", lambda route: held.append(route) if is_held else route.continue_()
    )
    watcher = Watcher(visitor)
    watcher.drop(("walk.mp4", "video/mp4", clip(frames=3, size=(WIDTH, HEIGHT))))
    visitor.until(lambda: bool(held))
    visitor.press("PageUp")
    visitor.until_ready()
    visitor.press("PageDown")
    watcher.timeline.wait_for()
    is_held = False
    for route in held:
        route.continue_()
    watcher.until_at(0)
    visitor.click(200, 150)
    visitor.until_seen(DISC)


def test_a_click_whose_video_is_found_to_be_forgotten_by_a_frame_is_answered(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """It was refused, with "Cannot read properties of null"."""
    watcher = Watcher(visitor)
    watcher.open(clip(frames=12, size=(WIDTH, HEIGHT)))
    visitor.click(400, 250)
    visitor.until(lambda: visitor.find("#objects .figure").all_inner_texts() == ["1.00"])
    lost = True
    context.route(f"{server.url}tracks/*/prompts", lambda route: route.abort() if lost else route.continue_())
    visitor.press("n")
    visitor.click(200, 150)
    visitor.until(lambda: "does not respond" in visitor.alert())
    (video,) = httpx.get(f"{server.url}videos", trust_env=False).json()["videos"]
    httpx.delete(f"{server.url}videos/{video['video_id']}", trust_env=False)
    with visitor.page.expect_response("**/frames/11"):
        visitor.find("#timeline input[type=range]").fill("11")
    lost = False
    watcher.until_at(11)
    visitor.press("Home")
    watcher.until_at(0)
    visitor.until(lambda: visitor.find("#objects .figure").all_inner_texts() == ["1.00", "1.00"])
    assert visitor.alert() == ""


def test_tracking_whose_video_is_found_to_be_forgotten_by_a_frame_begins_anew(
    visitor: Visitor, context: BrowserContext, server: PageServer
) -> None:
    """It ended, without a word."""
    watcher = Watcher(visitor)
    watcher.open(clip(frames=12, size=(WIDTH, HEIGHT)))
    visitor.click(400, 250)
    visitor.until(lambda: visitor.find("#objects .figure").all_inner_texts() == ["1.00"])
    held: list[Route] = []
    context.route(f"{server.url}tracks/*/propagate", lambda route: route.abort(), times=1)
    context.route(f"{server.url}videos", lambda route: held.append(route))
    watcher.button("Track forward").click()
    visitor.until(lambda: "does not respond" in visitor.alert())
    (video,) = httpx.get(f"{server.url}videos", trust_env=False).json()["videos"]
    httpx.delete(f"{server.url}videos/{video['video_id']}", trust_env=False)
    visitor.find("#timeline input[type=range]").fill("11")
    visitor.until(lambda: bool(held))
    visitor.until(lambda: "does not respond" not in visitor.alert())
    held[0].continue_()
    watcher.until_tracked()
    watcher.until_at(11)
    visitor.until(lambda: visitor.find("#objects .figure").all_inner_texts() == ["0.75"])
    assert visitor.alert() == ""


def test_after_a_frame_number_the_next_keys_are_commands(visitor: Visitor) -> None:
    """They were the field's: the arrow keys and T did nothing."""
    watcher = Watcher(visitor)
    watcher.open(clip(frames=6, size=(WIDTH, HEIGHT)))
    number = visitor.find("#timeline input[type=number]")
    number.fill("3")
    number.press("Enter")
    watcher.until_at(2)
    visitor.press("ArrowRight")
    watcher.until_at(3)
    assert number.input_value() == "4"


def test_tracking_that_is_stopped_while_a_click_is_sent_can_begin_anew(
    visitor: Visitor, server: PageServer
) -> None:
    """It ended only with the click, which a busy server may keep; until then T was dropped without a word."""
    watcher = Watcher(visitor)
    watcher.open(clip(frames=4, size=(WIDTH, HEIGHT)))
    server.segmenter.gate.clear()
    visitor.click(200, 150)
    watcher.button("Track forward").click()
    watcher.button("Stop").wait_for()
    visitor.press("Escape")
    watcher.until_tracked()
    visitor.press("t")
    watcher.button("Stop").wait_for()
    server.segmenter.gate.set()
    watcher.until_at(3)
    watcher.until_tracked()
    assert visitor.alert() == ""
