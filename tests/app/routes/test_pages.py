"""How the page and the JavaScript client are served: types, caching, policies, size; and that a wheel has them."""

import gzip
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from app.settings import Settings
from tests.fakes import Served, picture, serving
from tests.server import ROOT
from tests.small_videos import clip

PAGE, CLIENT = ROOT / "app/page", ROOT / "client/js"
SAMPLE = "app/page/hats.jpg"
"""A picture to try, which is loaded only on request."""
FILES = {
    path.relative_to(ROOT).as_posix(): path
    for path in sorted([*PAGE.rglob("*"), *CLIENT.glob("*.js")])
    if path.is_file()
}
FILES.pop(SAMPLE)
LATE = {name for name in FILES if "/video/" in name} | {"client/js/videos.js", "client/js/tracks.js"}
"""What the page loads when the first video comes; tests/page/test_video.py looks that it does."""
CLOSER = {"app/page/closer.js", "client/js/closer.js", "client/js/runs.js"}
"""What the page loads with the first closer look; tests/page/test_closer.py looks that it does."""
ENTRY = """export * from "./client/index.js";"""
ELSEWHERE_ORIGIN = "https://tool.example.com"
MOST_BYTES = 67_000
MOST_LATE_BYTES = 30_000
MOST_CLOSER_BYTES = 6_000
ELSEWHERE = re.compile(r"https?:\\?/\\?/(?!www\.w3\.org/2000/svg)[\w.]+")


def path_of(name: str) -> str:
    if name == "app/page/index.html":
        return "/"
    return name.replace("app/page/", "/page/").replace("client/js/", "/client/")


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("app/page/index.html", "text/html; charset=utf-8"),
        ("app/page/page.css", "text/css; charset=utf-8"),
        ("app/page/main.js", "text/javascript; charset=utf-8"),
        ("app/page/icon.svg", "image/svg+xml"),
        ("app/page/video/start.js", "text/javascript; charset=utf-8"),
        ("app/page/video/video.css", "text/css; charset=utf-8"),
        ("client/js/index.js", "text/javascript; charset=utf-8"),
        (SAMPLE, "image/jpeg"),
    ],
)
async def test_files_have_their_types(name: str, media_type: str) -> None:
    async with serving() as served:
        reply = await served.client.get(path_of(name))
    assert reply.headers["content-type"] == media_type
    assert reply.content == (ROOT / name).read_bytes()


async def test_pages_of_other_sites_may_import_the_client() -> None:
    async with serving(Settings(workers=2, cors_origins=ELSEWHERE_ORIGIN)) as served:
        for path in ("/client.js", "/client/index.js"):
            reply = await served.client.get(path, headers={"Origin": ELSEWHERE_ORIGIN})
            assert reply.headers["access-control-allow-origin"] == ELSEWHERE_ORIGIN
            assert {"Accept-Encoding", "Origin"} <= set(reply.headers["vary"].split(", "))
            assert reply.headers["content-type"] == "text/javascript; charset=utf-8"
            assert reply.headers["cache-control"] == "no-cache"
            stranger = await served.client.get(path, headers={"Origin": "https://elsewhere.example.com"})
            assert "access-control-allow-origin" not in stranger.headers
        assert ENTRY in (await served.client.get("/client.js")).text


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("br, GZIP;q=0.5", "gzip"),
        ("identity, gzip;q=0", None),
        ("gzip; q=0.000, br", None),
        ("identity, GZIP;Q=0.5", None),
        ("notgzip", None),
        ("", None),
    ],
)
async def test_files_are_compressed_for_those_who_read_that(accepted: str, coding: str | None) -> None:
    async with serving() as served:
        reply = await served.client.get("/client/index.js", headers={"Accept-Encoding": accepted})
    assert reply.headers.get("content-encoding") == coding
    assert reply.content == (CLIENT / "index.js").read_bytes()


async def test_nothing_may_come_from_elsewhere_or_run_inline() -> None:
    async with serving() as served:
        policy = (await served.client.get("/")).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "img-src 'self' blob: data:" in policy
    assert "unsafe" not in policy


async def test_what_a_browser_has_is_not_sent_again() -> None:
    async with serving() as served:
        first = await served.client.get("/page/main.js")
        again = await served.client.get("/page/main.js", headers={"If-None-Match": first.headers["etag"]})
        other = await served.client.get("/page/main.js", headers={"If-None-Match": '"another"'})
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert other.status_code == 200


@pytest.mark.parametrize("name", ["page/main.js", "videos/clip/frames/0", "images/truck/embedding"])
async def test_a_tag_may_be_one_of_several_or_any(name: str) -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        await served.client.post("/videos?video_id=clip", files={"video": clip(frames=2)})
        tag = (await served.client.get(f"/{name}")).headers["etag"]
        several = [("If-None-Match", '"a", "b"'), ("If-None-Match", f"W/{tag.removeprefix('W/')}")]
        for headers in (several, [("If-None-Match", "*")]):
            assert (await served.client.get(f"/{name}", headers=headers)).status_code == 304


async def bytes_on_the_wire(served: Served, name: str, accepted: str) -> bytes:
    """Return the body of a file as it is sent, still compressed."""
    request = served.client.stream("GET", path_of(name), headers={"Accept-Encoding": accepted})
    async with request as reply:
        assert reply.status_code == 200
        assert reply.headers.get("content-encoding", "identity") == accepted
        return b"".join([chunk async for chunk in reply.aiter_raw()])


async def test_page_and_client_weigh_little_as_sent_and_the_figures_are_said() -> None:
    async with serving() as served:
        packed = {name: await bytes_on_the_wire(served, name, "gzip") for name in FILES}
        plain = {name: await bytes_on_the_wire(served, name, "identity") for name in FILES}
    assert {name: gzip.decompress(sent) for name, sent in packed.items()} == plain
    said = " ".join((ROOT / "docs/performance.md").read_text().split())
    first = FILES.keys() - LATE - CLOSER
    for names, most in ((first, MOST_BYTES), (LATE, MOST_LATE_BYTES), (CLOSER, MOST_CLOSER_BYTES)):
        sent, unpacked = (sum(len(files[name]) for name in names) for files in (packed, plain))
        assert most / 3 < sent < most
        weight = f"{sent / 1000:.0f} kB as they travel (gzip) and {unpacked / 1000:.0f} kB unpacked"
        assert f"{len(names)} files, {weight}" in said


async def test_a_client_that_cannot_unpack_gets_it_plain() -> None:
    async with serving() as served:
        reply = await served.client.get("/", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in reply.headers
    assert reply.content == (PAGE / "index.html").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/page/", "/page/video/", "/page/video", "/page/video/nothing.js", "/page/nothing.js",
        "/page/..%2Fpages.py", "/page/main.js/x", "/page/client.js",
        "/client/", "/client/nothing.js", "/client/package.json", "/client/client.js/x",
    ],
)  # fmt: skip
async def test_nothing_else_is_served(path: str) -> None:
    async with serving() as served:
        reply = await served.client.get(path)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "not_found"


async def test_head_says_what_get_would() -> None:
    async with serving() as served:
        get, head = await served.client.get("/"), await served.client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == get.headers["etag"]


@pytest.mark.parametrize("name", FILES)
def test_files_name_no_other_host_and_say_what_they_are(name: str) -> None:
    text = FILES[name].read_text()
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert ELSEWHERE.findall(code) == []
    assert " style=" not in code
    assert "onclick=" not in code
    if name.endswith((".js", ".css")):
        assert text.startswith("/*")
    assert len(text.splitlines()) <= 300


def test_every_module_and_element_that_is_named_exists() -> None:
    page = (PAGE / "index.html").read_text()
    for path in (path for path in FILES.values() if path.suffix == ".js"):
        text = path.read_text()
        for module in re.findall(r'(?:from |import\()"(\.[^"]+)"', text):
            # The page's modules are served at /page/ and the client's at /client/, so ../client/ is beside both.
            folder, _, name = module.rpartition("/")
            known = {
                CLIENT: {".": CLIENT},
                PAGE: {".": PAGE, "../client": CLIENT, "./video": PAGE / "video"},
                PAGE / "video": {".": PAGE / "video", "..": PAGE, "../../client": CLIENT},
            }[path.parent]
            assert (known[folder] / name).is_file(), (path, module)
        for element in re.findall(r'\$\("([\w-]+)"\)', text):
            assert f'id="{element}"' in page


def test_a_wheel_holds_page_and_client_and_serves_them(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns("__pycache__", "node_modules", "types")
    for folder in ("app", "model", "client/js"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = "import setuptools.build_meta as backend; backend.build_wheel('..')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", build], cwd=tree, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(SAMPLE) == (ROOT / "docs/hats.jpg").read_bytes()
        inside = {name.replace("client/js/", "app/client_js/") for name in FILES}
        assert inside <= set(archive.namelist())
        assert not {"client", "js"} & {name.partition("/")[0] for name in archive.namelist()}
        archive.extractall(tmp_path / "installed")
    installed = "from app.routes.pages import _CLIENT, _FILES; print(_CLIENT, *_FILES)"
    command = [sys.executable, "-c", installed]
    done = subprocess.run(command, cwd=tmp_path / "installed", check=True, capture_output=True, text=True)
    folder, *served = done.stdout.split()
    assert Path(folder) == tmp_path / "installed/app/client_js"
    paths = {path_of(name).strip("/") or "page/index.html" for name in [*FILES, SAMPLE]}
    assert set(served) == paths | {"client.js"}
