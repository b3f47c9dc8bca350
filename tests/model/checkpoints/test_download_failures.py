"""Downloads that fail: what is said of it, how to go on, and what is kept."""

import hashlib
import socket
from pathlib import Path

import pytest

from model.checkpoints import download
from model.checkpoints.download import RELEASES, Release, locate
from model.errors import WeightsUnavailable
from tests.model.checkpoints.weights_server import CONTENT, FILE, PART, SHA256, VARIANT, names


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
