"""Downloads from a server of our own that cuts, ignores, lies and refuses as real ones do."""

import contextlib
import hashlib
import io
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from model import download
from model.config import BUILTIN, VARIANTS
from model.download import RELEASES, Release, locate
from model.errors import CheckpointError, WeightsUnavailable

REPOSITORY = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
VARIANT = "sam2_hiera_tiny"
FILE = "sam2_hiera_tiny.pt"
PART = f"{FILE}.part"


@dataclass
class Web:
    """A web server with one file; the fields say how it misbehaves."""

    content: bytes = CONTENT
    statuses: list[int] = field(default_factory=list)
    """Answers of the first requests; later ones get the file."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the first answers break off."""
    ranges: bool = True
    longest: int = len(CONTENT)
    """Bytes in the longest range it sends."""
    shift: int = 0
    """What 206 answers begin too late by."""
    gate: threading.Event = field(default_factory=threading.Event)
    """No answer before it is set."""
    asked: list[str | None] = field(default_factory=list)
    """The Range header of each request."""
    sent: list[int] = field(default_factory=list)
    """Bytes of body sent to each request."""
    paths: list[str] = field(default_factory=list)
    encodings: list[str | None] = field(default_factory=list)
    """The Accept-Encoding header of each request."""
    url: str = ""

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Answer nothing until the end of this block."""
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        self.paths.append(request.path)
        self.encodings.append(request.headers.get("Accept-Encoding"))
        self.gate.wait()
        if self.statuses:
            request.send_error(self.statuses.pop(0))
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if start >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if asked and self.ranges:
            start += self.shift
            request.send_response(206)
            end = min(len(self.content), start + self.longest)
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(self.content)}")
        else:
            end = len(self.content)
            request.send_response(200)
        body = self.content[start:end]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        body = body[: self.cuts.pop(0)] if self.cuts else body
        self.sent.append(len(body))
        request.wfile.write(body)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(RELEASES, VARIANT, Release("072824", FILE, SHA256))
    monkeypatch.setattr(download, "RETRY_WAITS_S", (0.0, 0.0, 0.0))
    web = Web()
    web.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # of clients that did not wait
                web.answer(self)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    server.shutdown()
    server.server_close()
    thread.join()


def wait_until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Files that are there


def test_every_variant_has_a_release():
    assert RELEASES.keys() == VARIANTS.keys() - {BUILTIN}
    for variant, release in RELEASES.items():
        assert release.file_name == f"{variant}.pt"
        assert release.folder == ("092824" if variant.startswith("sam2.1") else "072824")
        assert re.fullmatch("[0-9a-f]{64}", release.sha256)
    assert len({release.sha256 for release in RELEASES.values()}) == 8
    assert RELEASES["sam2.1_hiera_tiny"].size_bytes == 156_008_466


def test_the_built_in_weights_come_with_the_package(tmp_path, monkeypatch, web):
    path = tmp_path / "builtin.safetensors"
    monkeypatch.setattr("model.download.BUILTIN_PATH", path)
    with pytest.raises(
        WeightsUnavailable, match=r"builtin\.safetensors, and are not.*SAM2_CHECKPOINT=untrained"
    ):
        locate(BUILTIN, weights_dir=tmp_path / "weights", base_url=web.url)
    path.write_bytes(b"weights")
    assert locate(BUILTIN, weights_dir=tmp_path / "weights", base_url=web.url) == path
    assert web.asked == []
    assert not (tmp_path / "weights").exists()


def test_a_file_that_is_there_is_used_without_the_network(tmp_path, web):
    (tmp_path / FILE).write_bytes(b"weights of our own")
    assert locate(VARIANT, weights_dir=tmp_path, base_url=web.url) == tmp_path / FILE
    assert web.asked == []


def test_safetensors_come_first(tmp_path):
    (tmp_path / "sam2.1_hiera_large.safetensors").write_bytes(b"any size")
    (tmp_path / "sam2.1_hiera_large.pt").write_bytes(b"a released file would be longer")
    assert locate("sam2.1_hiera_large", weights_dir=tmp_path).suffix == ".safetensors"


def test_a_file_of_the_wrong_size_is_named_and_kept(tmp_path):
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    path.write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"has 5 bytes, the released file 156,008,466.*SAM2_CHECKPOINT"):
        locate("sam2.1_hiera_tiny", weights_dir=tmp_path)
    assert path.read_bytes() == b"short"


def test_an_unknown_variant_names_the_known_ones(tmp_path):
    with pytest.raises(WeightsUnavailable, match=r"'sam3'.*sam2.1_hiera_tiny"):
        locate("sam3", weights_dir=tmp_path)


# Downloads that succeed


def test_fresh_download_into_a_new_folder(tmp_path, web, caplog):
    caplog.set_level(logging.INFO, "model.download")
    folder = tmp_path / "new" / "weights"
    path = locate(VARIANT, weights_dir=folder, base_url=web.url)
    assert path == folder / FILE
    assert path.read_bytes() == CONTENT
    assert names(folder) == [FILE]
    assert web.paths == [f"/072824/{FILE}"]
    assert web.encodings == ["identity"]
    assert [record.message for record in caplog.records] == [
        f"downloading {web.url}/072824/{FILE} to {path}",
        f"{path}: downloaded, SHA-256 as released",
    ]
    assert locate(VARIANT, weights_dir=folder, base_url=web.url) == path
    assert len(web.asked) == 1


def test_a_terminal_sees_a_progress_bar(tmp_path, web, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    before = set(threading.enumerate())
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    locate(VARIANT, weights_dir=tmp_path, base_url=web.url)
    assert FILE in terminal.getvalue()
    assert "512k/512k" in terminal.getvalue()
    left = set(threading.enumerate()) - before
    assert "TMonitor" not in {type(thread).__name__ for thread in left}


def test_a_cut_download_goes_on_where_it_stopped(tmp_path, web, caplog):
    web.cuts = [200_000, 100_000]
    path = locate(VARIANT, weights_dir=tmp_path, base_url=web.url)
    assert path.read_bytes() == CONTENT
    assert web.asked == [None, "bytes=200000-", "bytes=300000-"]
    assert web.sent == [200_000, 100_000, 212_000]
    assert "download cut at 200,000 bytes" in caplog.text


def test_progress_renews_patience(tmp_path, web):
    web.cuts = [1000] * 10
    assert locate(VARIANT, weights_dir=tmp_path, base_url=web.url).read_bytes() == CONTENT
    assert len(web.asked) == 11


def test_a_later_run_goes_on_with_what_an_earlier_one_left(tmp_path, web):
    (tmp_path / PART).write_bytes(CONTENT[:123_456])
    assert locate(VARIANT, weights_dir=tmp_path, base_url=web.url).read_bytes() == CONTENT
    assert web.asked == ["bytes=123456-"]
    assert web.sent == [len(CONTENT) - 123_456]
    assert names(tmp_path) == [FILE]


def test_a_server_that_ignores_ranges_sends_it_all_again(tmp_path, web):
    web.ranges = False
    (tmp_path / PART).write_bytes(b"x" * 1000)
    assert locate(VARIANT, weights_dir=tmp_path, base_url=web.url).read_bytes() == CONTENT
    assert web.asked == ["bytes=1000-"]


def test_a_server_that_sends_another_range_is_asked_for_the_whole(tmp_path, web):
    web.shift = 5
    (tmp_path / PART).write_bytes(CONTENT[:1000])
    assert locate(VARIANT, weights_dir=tmp_path, base_url=web.url).read_bytes() == CONTENT
    assert web.asked == ["bytes=1000-", None]


def test_a_server_that_sends_a_range_in_pieces_is_asked_for_the_rest(tmp_path, web):
    web.longest = 300_000
    (tmp_path / PART).write_bytes(CONTENT[:1000])
    assert locate(VARIANT, weights_dir=tmp_path, base_url=web.url).read_bytes() == CONTENT
    assert web.asked == ["bytes=1000-", "bytes=301000-"]


def test_a_complete_part_is_only_renamed(tmp_path, web):
    (tmp_path / PART).write_bytes(CONTENT)
    assert locate(VARIANT, weights_dir=tmp_path, base_url=web.url).read_bytes() == CONTENT
    assert web.sent == []


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path, web):
    (tmp_path / PART).write_bytes(CONTENT + b"x")
    assert locate(VARIANT, weights_dir=tmp_path, base_url=web.url).read_bytes() == CONTENT
    assert web.asked == [f"bytes={len(CONTENT) + 1}-", None]


def test_a_busy_server_is_asked_again(tmp_path, web):
    web.statuses = [503, 429]
    assert locate(VARIANT, weights_dir=tmp_path, base_url=web.url).read_bytes() == CONTENT


LOCATE = """
import logging, sys
from pathlib import Path
from model.download import RELEASES, Release, locate
logging.basicConfig(level=logging.INFO, format="%(message)s")
RELEASES["{variant}"] = Release("072824", "{file}", "{sha256}")
print(locate("{variant}", weights_dir=Path(sys.argv[1]), base_url=sys.argv[2]).stat().st_size)
"""


def start_locate(folder: Path, url: str) -> subprocess.Popen[str]:
    program = LOCATE.format(variant=VARIANT, file=FILE, sha256=SHA256)
    return subprocess.Popen(
        [sys.executable, "-c", program, folder, url],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_download_once(tmp_path, web):
    with contextlib.ExitStack() as processes:
        with web.silence():
            first = processes.enter_context(start_locate(tmp_path, web.url))
            wait_until(lambda: web.asked)
            second = processes.enter_context(start_locate(tmp_path, web.url))
            assert second.stderr is not None
            assert "another process is downloading" in second.stderr.readline()
        assert first.communicate()[0] == second.communicate()[0] == f"{len(CONTENT)}\n"
    assert web.sent == [len(CONTENT)]
    assert names(tmp_path) == [FILE]


def test_who_waits_takes_over_when_the_first_fails(tmp_path, web, caplog):
    caplog.set_level(logging.INFO, "model.download")
    web.statuses = [404]
    with ThreadPoolExecutor(2) as pool:
        with web.silence():
            first = pool.submit(locate, VARIANT, weights_dir=tmp_path, base_url=web.url)
            wait_until(lambda: web.asked)
            second = pool.submit(locate, VARIANT, weights_dir=tmp_path, base_url=web.url)
            wait_until(lambda: "another process is downloading" in caplog.text)
        assert isinstance(first.exception(), WeightsUnavailable)
        assert second.result().read_bytes() == CONTENT
    assert names(tmp_path) == [FILE]


def test_a_file_that_another_process_finished_just_now_is_not_downloaded_again(tmp_path, web, monkeypatch):
    def lock(file: io.FileIO, operation: int) -> None:
        (tmp_path / FILE).write_bytes(CONTENT)

    monkeypatch.setattr(download.fcntl, "flock", lock)
    assert locate(VARIANT, weights_dir=tmp_path, base_url=web.url) == tmp_path / FILE
    assert web.asked == []
    assert names(tmp_path) == [FILE]


# Downloads that fail


def refusal(folder: Path, url: str) -> str:
    with pytest.raises(WeightsUnavailable) as caught:
        locate(VARIANT, weights_dir=folder, base_url=url)
    return str(caught.value)


def test_the_message_gives_every_way_to_go_on(tmp_path, web):
    web.statuses = [404]
    message = refusal(tmp_path, web.url)
    assert "the server answers 404 Not Found" in message
    assert f"{web.url}/072824/{FILE}" in message
    assert str(tmp_path) in message
    assert "SAM2_CHECKPOINT=PATH" in message
    assert "SAM2_CHECKPOINT=untrained" in message
    assert len(web.asked) == 1
    assert names(tmp_path) == []


def test_a_wrong_hash_removes_the_file_and_says_so(tmp_path, web):
    web.content = b"another file"
    message = refusal(tmp_path, web.url)
    assert f"SHA-256 {hashlib.sha256(b'another file').hexdigest()}, not {SHA256}, and was removed" in message
    assert names(tmp_path) == []


def test_a_page_in_the_place_of_the_file_is_not_downloaded(tmp_path, web, monkeypatch):
    monkeypatch.setitem(RELEASES, VARIANT, Release("072824", FILE, SHA256, len(CONTENT)))
    (tmp_path / PART).write_bytes(CONTENT[:1000])
    web.content, web.ranges = b"<html>sign in to this network</html>", False
    assert "the server offers 36 bytes, the released file has 512,000" in refusal(tmp_path, web.url)
    assert (tmp_path / PART).read_bytes() == CONTENT[:1000]


def test_without_a_network_it_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "RETRY_WAITS_S", (0.0,))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    message = refusal(tmp_path, url)
    assert "refused" in message
    assert "tries" not in message
    assert names(tmp_path) == []


def test_patience_ends_and_the_part_is_kept(tmp_path, web):
    web.cuts = [1000, 0, 0, 0]
    message = refusal(tmp_path, web.url)
    assert "after 4 tries" in message
    assert web.asked == [None, *["bytes=1000-"] * 3]
    assert (tmp_path / PART).read_bytes() == CONTENT[:1000]


def test_a_server_that_ignores_ranges_and_cuts_is_given_up(tmp_path, web):
    web.ranges = False
    web.cuts = [1000] * 20
    assert "after 4 tries" in refusal(tmp_path, web.url)
    assert len(web.asked) == 4


def test_a_slow_server_is_not_waited_for_without_end(tmp_path, web, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.05)
    with web.silence():
        assert "timed out, after 4 tries" in refusal(tmp_path, web.url)


def test_a_folder_that_cannot_be_made_is_named(tmp_path, web):
    (tmp_path / "weights").write_bytes(b"a file")
    assert f"cannot write to {tmp_path / 'weights'}" in refusal(tmp_path / "weights", web.url)


def test_a_full_disk_is_named(tmp_path, web):
    (tmp_path / PART).symlink_to("/dev/full")
    assert "No space left on device" in refusal(tmp_path, web.url)
    assert not (tmp_path / FILE).exists()
