"""Which files become videos on the page, frames that cannot be read, and what is said of files that are refused."""

import io
from collections.abc import Callable

import httpx
import pytest
from PIL import Image

from app.settings import Settings
from tests.fakes import picture
from tests.page.conftest import PageServer
from tests.page.visitor import HEIGHT, WIDTH, Visitor
from tests.page.watcher import Watcher
from tests.small_videos import clip, with_broken_packet


@pytest.fixture
def watcher(visitor: Visitor) -> Watcher:
    """A visitor without a video."""
    return Watcher(visitor)


def gif(frames: int) -> bytes:
    """Return a GIF of grey frames, one after the other darker."""
    images = [Image.new("L", (WIDTH, HEIGHT), 250 - 60 * number) for number in range(frames)]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=100)
    return file.getvalue()


def test_a_gif_that_moves_is_a_video_and_one_that_does_not_a_picture(watcher: Watcher) -> None:
    visitor = watcher.visitor
    watcher.open(gif(3), "moving.gif", "image/gif")
    assert "of 3" in watcher.timeline.inner_text()
    watcher.drop(("still.gif", "image/gif", gif(1)))
    visitor.until(watcher.timeline.is_hidden)
    visitor.until_ready()
    visitor.click(200, 150)
    visitor.until(lambda: visitor.find("#candidates-panel").is_visible())


def test_pictures_are_frames_in_the_order_of_their_numbers(watcher: Watcher, server: PageServer) -> None:
    visitor = watcher.visitor
    watcher.choose_frames(
        [(f"f{number}.png", picture(WIDTH, HEIGHT, shade=20 * number)) for number in (10, 9, 2)]
    )
    watcher.until_ready()
    assert "of 3" in watcher.timeline.inner_text()
    visitor.click(200, 150)
    visitor.until(lambda: visitor.colour(200, 152) != (0, 0, 0))
    server.forget()  # frames that were evicted are embedded again
    watcher.track()
    watcher.until_at(2)
    assert visitor.colour(200, 152) != (0, 0, 0)
    assert visitor.alert() == ""
    assert len(server.segmenter.encoded) == 6


def test_frames_that_are_broken_or_of_two_sizes_are_refused_by_name(watcher: Watcher) -> None:
    watcher.choose_frames([("a.png", picture(60, 40)), ("b.png", picture(60, 40)[:50])])
    watcher.visitor.until(lambda: "a.png and 1 more: b.png: The picture is" in watcher.visitor.alert())
    watcher.choose_frames([("a.png", picture(60, 40)), ("b.png", picture(61, 40))])
    watcher.visitor.until(
        lambda: "b.png has 61 x 40 pixels, and a.png has 60 x 40" in watcher.visitor.alert()
    )


def test_a_frame_that_cannot_be_read_is_named_and_the_rest_is_tracked(watcher: Watcher) -> None:
    visitor = watcher.visitor
    broken = with_broken_packet(clip(frames=5, size=(WIDTH, HEIGHT), b_frames=0, group=1), "mp4", 2)
    watcher.open(broken)
    visitor.click(200, 150)
    visitor.until(lambda: visitor.colour(200, 152) != (0, 0, 0))
    watcher.track()
    visitor.until(lambda: "Frame 3 cannot be" in visitor.alert())
    watcher.until_at(4)
    assert visitor.colour(200, 152) != (0, 0, 0)


def test_a_frame_is_shown_once_the_server_can_be_reached_and_has_its_video_again(
    watcher: Watcher, server: PageServer
) -> None:
    visitor = watcher.visitor
    corner = (
        "() => picture.getContext('2d').getImageData(picture.width * 0.7, picture.height * 0.7, 1, 1).data[0]"
    )
    watcher.open(clip(frames=30, size=(WIDTH, HEIGHT)))
    (video,) = httpx.get(f"{server.url}videos", trust_env=False).json()["videos"]
    httpx.delete(f"{server.url}videos/{video['video_id']}", trust_env=False)
    visitor.press("End")
    watcher.until_at(29)
    visitor.until(lambda: abs(visitor.page.evaluate(corner) - 110) < 9)  # white is what cannot be read
    visitor.page.context.set_offline(True)
    visitor.press("Shift+ArrowLeft")
    visitor.until(lambda: "does not respond" in visitor.alert())
    visitor.page.context.set_offline(False)
    visitor.find("#retry").click()
    watcher.until_at(19)
    visitor.until(lambda: abs(visitor.page.evaluate(corner) - 210) < 9)
    visitor.until(lambda: visitor.alert() == "")
    # Restarts that are long apart: the third was told as "twice in a row", though each had been made good.
    visitor.page.evaluate(
        "const now = performance.now.bind(performance); performance.now = () => 1e5 * now()"
    )
    for frame in (9, 17):
        httpx.delete(f"{server.url}videos/{video['video_id']}", trust_env=False)
        visitor.find("#timeline input[type=range]").fill(str(frame))
        watcher.until_at(frame)
        assert visitor.alert() == ""


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [("song.mp4", "video/mp4", "song.mp4: "), ("notes.txt", "text/plain", "no picture and no video")],
)
def test_what_is_no_video_is_refused_in_words(watcher: Watcher, name: str, kind: str, said: str) -> None:
    watcher.drop((name, kind, b"not a video"))
    watcher.visitor.until(lambda: said in watcher.visitor.alert())
    watcher.drop(("next.png", "image/png", picture()))
    watcher.visitor.until(lambda: watcher.visitor.alert() == "")  # it stayed over what was opened next


def test_a_file_that_is_too_large_is_not_sent(open_page: Callable[[PageServer], Visitor]) -> None:
    server = PageServer(Settings(workers=2, max_video_mib=1))
    try:
        small = Watcher(open_page(server))
        small.drop(("large.mp4", "video/mp4", bytes(2**20 + 1)))
        small.visitor.until(lambda: "1.0 MiB, but the server accepts at most 1 MiB" in small.visitor.alert())
        assert not any("/videos" in url for url in small.visitor.requests)
    finally:
        server.stop()
