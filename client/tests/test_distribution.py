"""The package as it is distributed: its dependencies, its content, the examples of its README."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from client_server import Served
from packaging.requirements import Requirement

import sam2_client
from sam2_client import command
from tests.server import ROOT
from tests.small_videos import clip

CLIENT = ROOT / "client"
README = (CLIENT / "README.md").read_text()
TRACKING = (ROOT / "docs/tracking.md").read_text()
DATA_SETS = (ROOT / "docs/data-sets.md").read_text()
PROJECT = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
FILES = sorted((CLIENT / "sam2_client").glob("*.py"))
NEEDED = {"anyio", "httpx", "numpy", "PIL", "tqdm", "yaml"}


def test_importing_it_imports_neither_torch_nor_the_service() -> None:
    code = (
        "import sys, sam2_client, sam2_client.command; print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(  # noqa: S603  # ourselves
        [sys.executable, "-c", code], cwd=CLIENT, capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert "sam2_client" in imported
    assert not imported & {
        "torch",
        "fastapi",
        "starlette",
        "pydantic",
        "uvicorn",
        "app",
        "model",
        "pycocotools",
        "cvat_sdk",
        "av",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_says_what_it_is_and_imports_only_what_is_asked_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert len(path.read_text().splitlines()) <= 300
    imported = {
        module.split(".")[0]
        for node in ast.walk(tree)
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    optional = {"cvat.py": {"cvat_sdk"}, "overlay_video.py": {"av"}}  # cvat-cli imports cvat.py, and has it
    allowed = NEEDED | {"sam2_client"} | optional.get(path.name, set())
    assert imported - sys.stdlib_module_names <= allowed
    assert "os.environ" not in path.read_text() or path.name == "arguments.py"


def test_constraints_pin_what_it_needs() -> None:
    needed = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert needed == {"anyio", "httpx", "numpy", "pillow", "pyyaml", "tqdm"}
    needed |= {
        Requirement(line).name for lines in PROJECT["optional-dependencies"].values() for line in lines
    }
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert needed <= set(pinned)


def test_the_wheel_holds_types_licence_and_command(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("tests", "build", "*.egg-info", "__pycache__")
    shutil.copytree(CLIENT, tmp_path / "client", ignore=ignored)
    subprocess.run(  # ourselves
        [sys.executable, "-c", "from setuptools.build_meta import build_wheel; build_wheel('..')"],
        cwd=tmp_path / "client",
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"sam2_client-{sam2_client.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"sam2_client/{path.name}" for path in FILES} | {"sam2_client/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "sam2 = sam2_client.command:main" in zipfile.ZipFile(wheel).read(entry_points).decode()


def test_what_readme_shows_works(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks in order, as a reader pastes them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM2_URL", served.url)
    shutil.copytree(ROOT / "docs", "docs")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert {language for language, _ in blocks} == {"python", "bash"}
    for language, block in blocks:
        if language == "python":
            exec(block.replace("http://127.0.0.1:8000", served.url), {})  # noqa: S102  # our own README
            continue
        for line in block.splitlines():
            name, *arguments = shlex.split(line, comments=True)
            assert name == "sam2"
            assert command.main(arguments) == 0, line
    for name in ("over.png", "mask.png", "cap.png", "instances.json", "polygons.json", "masks.json"):
        assert Path(name).exists()
    (example,) = re.findall(r"^    (\{.*\})$", README, re.MULTILINE)
    Path("prompts.jsonl").write_text(example)
    (line,) = re.findall(r"`sam2 (export prompts[^`]*)`", README)
    assert command.main(line.split()) == 0


def test_what_the_page_about_data_sets_shows_works(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM2_URL", served.url)
    shutil.copytree(ROOT / "docs", "docs")
    (block,) = re.findall(r"^```bash\n(.*?)^```", DATA_SETS, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        _, *arguments = shlex.split(line, comments=True)
        assert command.main(arguments) == 0, line


def test_what_the_page_about_tracking_shows_works(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM2_URL", served.url)
    Path("clip.mp4").write_bytes(clip(frames=6))
    (example,) = re.findall(r"^```python\n(.*?)^```", TRACKING, re.MULTILINE | re.DOTALL)
    exec(example.replace("http://127.0.0.1:8000", served.url), {})  # noqa: S102  # our own page
    (block,) = re.findall(r"^```bash\n(.*?)^```", TRACKING, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        _, *arguments = shlex.split(line)
        assert command.main(arguments) == 0, line
    assert {"last.png", "masks", "out.json", "out.mp4", "two.json", "more"} <= set(os.listdir())  # noqa: PTH208
    named = set(re.findall(r"`(?:client|track)\.(\w+)", TRACKING))
    offered = {each for kind in (sam2_client.Client, sam2_client.Track) for each in dir(kind)}
    assert named <= offered
    assert {"track", "find_track", "video", "upload_video", "propagate", "click", "clear"} <= named


def test_make_installs_it_where_the_tests_run() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "--editable '.[dev,train]' --editable client" in makefile
    assert (CLIENT / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
