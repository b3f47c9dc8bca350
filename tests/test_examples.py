"""Runs the examples, and every curl line of README, against a server as users run it."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from examples.one_click import COLOUR, OPACITY, decode_rle
from tests.bench.readme_overlay import JSON_BLOCK, OVERLAY, PICTURE, command_of
from tests.server import ROOT, free_port, running_server

SVG = "{http://www.w3.org/2000/svg}"
WIDTH, HEIGHT = 1800, 1200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of the examples, with a large truck.jpg, and docs/ as in a clone."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(ROOT / "docs", folder / "docs")
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    picture = np.stack([x * 255 / WIDTH, y * 255 / HEIGHT, np.hypot(x - 500, y - 375) % 256], axis=-1)
    Image.fromarray(picture.astype(np.uint8)).save(folder / "truck.jpg")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with running_server(folder) as url:
        yield url


def run(folder: Path, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as for a user without a proxy."""
    variables = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        command, cwd=folder, env=variables | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def best_mask(folder: Path, url: str) -> np.ndarray:
    """The mask that the examples should draw, decoded by pycocotools."""
    picture = (folder / "truck.jpg").read_bytes()
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        image_id = client.post("/embed", files={"image": picture}).json()["image_id"]
        click = {"point_coords": [[500, 375]], "point_labels": [1]}
        reply = client.post("/decode", json={"image_id": image_id, **click}).json()
    return coco_mask.decode(reply["predictions"][0]["masks"][0]["rle"]).astype(bool)


def test_python_example_draws_the_best_mask(folder: Path, url: str, best_mask: np.ndarray) -> None:
    done = run(
        folder,
        sys.executable,
        ROOT / "examples/one_click.py",
        "truck.jpg",
        "--point",
        "500,375",
        "--url",
        url,
    )
    assert done.returncode == 0, done.stderr
    assert f"{best_mask.sum()} pixels" in done.stdout
    before = np.asarray(Image.open(folder / "truck.jpg"), np.float32)
    after = np.asarray(Image.open(folder / "truck.mask.png"), np.float32)
    tinted = before + OPACITY * (np.array(COLOUR, np.float32) - before)
    assert 0 < best_mask.mean() < 1
    assert np.array_equal(after[~best_mask], before[~best_mask])
    assert np.abs(after[best_mask] - tinted[best_mask]).max() <= 0.51


def test_shell_example_draws_the_best_mask(folder: Path, url: str, best_mask: np.ndarray) -> None:
    done = run(folder, ROOT / "examples/one_click.sh", "truck.jpg", "500", "375", SAM2_URL=url)
    assert done.returncode == 0, done.stderr
    assert f"{best_mask.sum()} pixels" in done.stdout
    drawing = ElementTree.parse(folder / "truck.svg").getroot()  # noqa: S314  # our own file
    photograph, mask = (
        base64.b64decode(image.attrib["href"].partition("base64,")[2], validate=True)
        for image in drawing.iter(f"{SVG}image")
    )
    assert photograph == (folder / "truck.jpg").read_bytes()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(mask)), bool), best_mask)
    assert drawing.attrib["viewBox"] == f"0 0 {WIDTH} {HEIGHT}"


def test_examples_show_what_the_server_says_is_wrong(folder: Path, url: str) -> None:
    (folder / "page.jpg").write_text("<html></html>")
    by_shell = run(folder, ROOT / "examples/one_click.sh", "page.jpg", "1", "1", SAM2_URL=url)
    python = ROOT / "examples/one_click.py"
    by_python = run(folder, sys.executable, python, "page.jpg", "--point", "1,1", "--url", url)
    for done in (by_shell, by_python):
        assert done.returncode == 1
        assert "invalid_image" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (folder / "page.svg").exists()


@pytest.mark.parametrize("example", ["one_click.py", "one_click.sh"])
@pytest.mark.parametrize(
    ("picture", "output", "address", "said"),
    [
        ("truck.jpg", "out", "", "connect"),
        ("truck.jpg", "out", "nothing://here", "nothing"),
        ("missing.jpg", "out", "there", "missing.jpg"),
        ("truck.jpg", "no/folder/out", "there", "no/folder/out"),
    ],
)
def test_examples_say_in_words_what_is_missing(
    folder: Path, url: str, example: str, picture: str, output: str, address: str, said: str
) -> None:
    address = {"": f"http://127.0.0.1:{free_port()}", "there": url}.get(address, address)
    if example.endswith(".py"):
        options = ["--point", "500,375", "--url", address, "--output", f"{output}.png"]
        done = run(folder, sys.executable, ROOT / "examples" / example, picture, *options)
    else:
        arguments = [picture, "500", "375", f"{output}.svg"]
        done = run(folder, ROOT / "examples" / example, *arguments, SAM2_URL=address)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr.lower()


@pytest.mark.parametrize("name", ['a "b"; c,d.jpg', "back\\slash.jpg", "-o.jpg"])
def test_shell_example_takes_any_name(folder: Path, url: str, name: str) -> None:
    shutil.copyfile(folder / "truck.jpg", folder / name)
    done = run(folder, ROOT / "examples/one_click.sh", name, "500", "375", SAM2_URL=url)
    assert done.returncode == 0, done.stderr
    ElementTree.parse(folder / f"{name.removesuffix('.jpg')}.svg")  # noqa: S314  # our own file


@pytest.mark.parametrize("seed", range(20))
def test_example_decodes_rle_as_pycocotools_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 300, 2)
    mask = random.random((height, width)) < random.choice([0, 0.001, 0.1, 0.5, 1])
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    assert np.array_equal(decode_rle({"size": rle["size"], "counts": rle["counts"].decode()}), mask)


def test_every_curl_line_of_readme_works(folder: Path, url: str) -> None:
    """Run them and those of docs/http-api.md in order, as if pasted. A reply that is not 2xx fails."""
    (folder / ".curlrc").write_text("fail\nsilent\nshow-error\n")
    pages = [(ROOT / page).read_text() for page in ("README.md", "docs/http-api.md")]
    blocks = [re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL) for page in pages]
    scripts = [block for block in chain(*blocks) if block.startswith("curl ")]
    assert sum(len(re.findall(r"^curl ", script, re.MULTILINE)) for script in scripts) >= 11
    for script in scripts:
        script = script.replace("127.0.0.1:8000", url.removeprefix("http://"))
        done = run(folder, "bash", "-euo", "pipefail", "-c", script, CURL_HOME=str(folder))
        assert done.returncode == 0, script + done.stderr


def test_curl_lines_need_no_option_that_common_systems_lack() -> None:
    """--json is from 7.82; Ubuntu 22.04 has 7.81 and RHEL 9 has 7.76."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "examples/one_click.sh"]
    for page in (*pages, ROOT / "app/page/prompts.js"):
        assert not re.search(r"^.*(curl|ask) .*--json.*$", page.read_text(), re.MULTILINE), page


def test_python_of_readme_works_and_so_does_the_command_beside_it(folder: Path, url: str) -> None:
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    client = {"PYTHONPATH": str(ROOT / "client"), "SAM2_URL": url}
    done = run(folder, sys.executable, "-c", code.replace("http://127.0.0.1:8000", url), **client)
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "docs/hats.jpg") as hats, Image.open(folder / "overlay.png") as overlay:
        assert overlay.size == hats.size
    (folder / "overlay.png").unlink()
    (arguments,) = re.findall(r"`\.venv/bin/sam2 (decode .*?)`", readme)
    done = run(folder, sys.executable, "-m", "sam2_client", *arguments.split(), **client)
    assert done.returncode == 0, done.stderr
    assert (folder / "overlay.png").exists()


def test_reply_shown_in_readme_has_the_fields_of_a_real_one(folder: Path, url: str) -> None:
    readme = (ROOT / "README.md").read_text()
    shown = json.loads(JSON_BLOCK.search(readme)[1])
    command = command_of(readme).replace("http://127.0.0.1:8000", url)
    reply = json.loads(run(folder, "bash", "-c", command).stdout)
    assert shown.keys() == reply.keys()
    (mask,), (shown_mask,) = (r["predictions"][0]["masks"] for r in (reply, shown))
    assert shown_mask.keys() == mask.keys()
    assert shown_mask["rle"]["size"] == mask["rle"]["size"] == [shown["height"], shown["width"]]


def test_overlay_of_readme_is_of_its_picture_and_light() -> None:
    with Image.open(PICTURE) as picture, Image.open(OVERLAY) as overlay:
        assert overlay.size == picture.size
    assert OVERLAY.stat().st_size <= 80_000
    assert f"]({OVERLAY.relative_to(ROOT)})" in (ROOT / "README.md").read_text()
