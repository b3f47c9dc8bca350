"""Weights that are there, and downloads that succeed: whole or in pieces, and once however many want them."""

import contextlib
import io
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model.checkpoints import part_file
from model.checkpoints.download import RELEASES, locate
from model.checkpoints.file_locks import NoLocks
from model.errors import CheckpointError, WeightsUnavailable
from model.network.config import BUILTIN, VARIANTS
from tests.model.checkpoints.weights_server import CONTENT, FILE, PART, SHA256, VARIANT, names

REPOSITORY = Path(__file__).parents[3]


def wait_until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


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
    monkeypatch.setattr("model.checkpoints.download.BUILTIN_PATH", path)
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


def test_fresh_download_into_a_new_folder(tmp_path, web, caplog):
    caplog.set_level(logging.INFO, "model.checkpoints")
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
from model.checkpoints.download import RELEASES, Release, locate
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
    caplog.set_level(logging.INFO, "model.checkpoints")
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
    def lock(file: io.FileIO) -> bool:
        (tmp_path / FILE).write_bytes(CONTENT)
        return True

    monkeypatch.setattr(part_file, "lock", lock)
    assert locate(VARIANT, weights_dir=tmp_path, base_url=web.url) == tmp_path / FILE
    assert web.asked == []
    assert names(tmp_path) == [FILE]


def test_without_locks_each_process_downloads_a_file_of_its_own(tmp_path, web, monkeypatch):
    def lock(file: io.FileIO, *, waits: bool = False) -> bool:
        raise NoLocks

    monkeypatch.setattr(part_file, "lock", lock)
    monkeypatch.setattr("os.getpid", threading.get_ident)
    with ThreadPoolExecutor(2) as pool:
        with web.silence():
            both = [pool.submit(locate, VARIANT, weights_dir=tmp_path, base_url=web.url) for _ in range(2)]
            wait_until(lambda: len(web.asked) == 2)
        assert [each.result().read_bytes() for each in both] == [CONTENT] * 2
    assert names(tmp_path) == [FILE]


def test_a_password_in_the_address_is_not_shown(tmp_path, web, caplog):
    caplog.set_level("INFO")
    web.statuses = [404]
    url = web.url.replace("://", "://robot:s3cr3t@")
    with pytest.raises(WeightsUnavailable) as error:
        locate(VARIANT, weights_dir=tmp_path, base_url=url)
    # httpx's own lines, which have it too, are not shown by the server.
    said = [record.getMessage() for record in caplog.records if record.name.startswith("model.")]
    assert "//***@" in said[0]
    assert "s3cr3t" not in str([*said, error.value])
