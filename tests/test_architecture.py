"""Who may import whom, and what may be named where. docs/architecture.md describes the rooms; this holds them.

A room is a package below app/ or model/, or one of the few files that lie directly in these.
"""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent


class Room(NamedTuple):
    """A room's floor, and the rooms of model/ that a room of app/ may use."""

    floor: int
    model: tuple[str, ...] = ()


ROOMS = {
    "app.__main__": Room(9, model=("model.errors",)),
    "app.main": Room(8),
    "app.doors": Room(7),
    "app.cluster": Room(6),
    "app.routes": Room(6, model=("model.everything", "model.types")),
    "app.service": Room(
        5,
        model=(
            "model.checkpoints",
            "model.devices",
            "model.errors",
            "model.everything",
            "model.exporting",
            "model.gpu",
            "model.masks",
            "model.network",
            "model.runner",
            "model.types",
            "model.video",
        ),
    ),
    "app.storage": Room(4, model=("model.checkpoints", "model.errors", "model.types")),
    "app.middleware": Room(4),
    "app.telemetry": Room(3),
    "app.scheduling": Room(2, model=("model.errors",)),
    "app.codecs": Room(2, model=("model.masks", "model.types")),
    "app.limits": Room(0),
    "app.listening": Room(0),
    "app.process": Room(0),
    "app.setting_checks": Room(0),
    "app.client_settings": Room(1),
    "app.errors": Room(1),
    "app.segmenter": Room(1, model=("model.types", "model.video")),
    "app.settings": Room(2, model=("model.checkpoints", "model.device_names", "model.network")),
    "app.track_errors": Room(2),
    "app.names_errors": Room(2),
    "app.version": Room(1),
    "model.training": Room(6),
    "model.exporting": Room(5),
    "model.runner": Room(5),
    "model.gpu": Room(4),
    "model.tracking": Room(4),
    "model.batches": Room(4),
    "model.cpu": Room(3),
    "model.checkpoints": Room(3),
    "model.video": Room(3),
    "model.network": Room(2),
    "model.masks": Room(2),
    "model.everything": Room(3),
    "model.device_names": Room(0),
    "model.devices": Room(1),
    "model.errors": Room(1),
    "model.types": Room(1),
}
"""A file imports from its own room and from rooms on lower floors of its package; app/ also from `model`."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "fastapi": ("app/__main__.py", "app/main.py", "app/doors/", "app/routes/"),
    "starlette": ("app/middleware/", "app/routes/"),
    "uvicorn": ("app/__main__.py", "app/middleware/request_heads.py", "app/middleware/websockets.py"),
    "pydantic": (
        "app/__main__.py",
        "app/client_settings.py",
        "app/codecs/json_bodies.py",
        "app/doors/",
        "app/setting_checks.py",
        "app/routes/",
        "app/settings.py",
    ),
    "boto3": ("app/storage/bucket.py",),
    "botocore": ("app/storage/bucket.py", "app/storage/bucket_errors.py"),
    "pydantic_settings": ("app/settings.py",),
    "prometheus_client": ("app/telemetry/cluster_metrics.py", "app/telemetry/metrics.py"),
    "opentelemetry": ("app/telemetry/tracing.py",),
    "ray": ("app/cluster/",),
    "httpcore": ("app/routes/remote_pictures.py",),
    "sqlite3": ("app/storage/",),
    "psycopg": ("app/storage/postgres.py", "app/storage/postgres_line.py", "app/storage/postgres_options.py"),
    "av": ("app/codecs/",),
    "torch": ("app/storage/store.py", "model/"),
    "asyncio": ("app/",),
}
"""Packages that stand for a subject, and where that subject lives: files, or folders with a slash at the end."""

FILES = sorted(path for package in ("app", "model") for path in (ROOT / package).rglob("*.py"))
SERVING = [path for path in FILES if "training" not in path.parts]
"""All but the commands that made the built-in model."""


def name(path: Path) -> str:
    """As the rules write it: app/main.py."""
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """app.storage.tiers; a package's __init__.py is the package."""
    return name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """The first two names of a module: app.storage of app.storage.tiers."""
    return ".".join(module.split(".")[:2])


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: write the whole name in the place of a relative import."
            assert node.module is not None
            # `from app.routes import pages` imports app.routes.pages, where that is a file.
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return frozenset(found)


def complaint(path: Path, module: str) -> str | None:
    """What is wrong with one import of our own, as a sentence that says what to do."""
    own, other = room_of(module_of(path)), room_of(module)
    if other not in ROOMS:
        return f"{name(path)} imports {module}: enter the room {other} with its floor in ROOMS of this test."
    if own.startswith("model.") and other.startswith("app."):
        return f"{name(path)} imports {module}: model/ never imports app/; pass what it needs as an argument."
    if own.startswith("app.") and other.startswith("model."):
        if other in ROOMS[own].model:
            return None
        return (
            f"{name(path)} imports {module}: {own} does not use {other}. Go through a room that does, "
            f"or enter {other} under {own} in ROOMS, and say why in docs/architecture.md."
        )
    if own == other or ROOMS[other].floor < ROOMS[own].floor:
        return None
    return (
        f"{name(path)} (floor {ROOMS[own].floor}) imports {module} (floor {ROOMS[other].floor}): imports go down. "
        f"Move what both need to a lower floor, or have a room above pass it in."
    )


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(module) for module in MODULES if "." in module}
    missing, gone = rooms - set(ROOMS), set(ROOMS) - rooms
    assert not missing, f"Enter {sorted(missing)} with a floor in ROOMS of this test."
    assert not gone, f"Remove {sorted(gone)} from ROOMS of this test; there is no such file or package."
    assert all((ROOT / place).exists() for places in ONLY_IN.values() for place in places)


def test_imports_go_down() -> None:
    complaints = []
    for path in FILES:
        if module_of(path) in ("app", "model"):  # docstrings, of which every room is below
            assert imports(path) == set()
            continue
        ours = sorted(module for module in imports(path) if module.split(".")[0] in ("app", "model"))
        complaints += [said for module in ours if (said := complaint(path, module))]
    assert not complaints, "\n".join(complaints)


def test_no_circle_within_a_room() -> None:
    graph = {module: imports(path) & set(MODULES) for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(
            f"These import each other: {' -> '.join(error.args[1])}. Move what they share to a third file."
        )


def test_a_subject_has_one_place() -> None:
    complaints = []
    for path in SERVING:
        for package in {module.split(".")[0] for module in imports(path)} & set(ONLY_IN):
            places = ONLY_IN[package]
            if not any(
                name(path) == place or (place[-1] == "/" and name(path).startswith(place)) for place in places
            ):
                complaints.append(f"{name(path)} imports {package}, which belongs to {', '.join(places)}.")
    assert not complaints, "\n".join(complaints)


def test_the_environment_is_read_in_one_place() -> None:
    places = ("app/settings.py", "app/cluster/ray_environment.py")  # the second sets it, for Ray
    words = {"environ", "environb", "getenv"}
    assert [name(path) for path in SERVING if name(path) not in places and words & words_of(path)] == []


def words_of(path: Path) -> set[str]:
    """Every name that a file's code mentions."""
    nodes = ast.walk(tree_of(path))
    return {
        getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None) or ""
        for node in nodes
    }


def test_one_file_knows_cuda_and_the_runner_chooses_it() -> None:
    places = (
        "app/cluster/ray_environment.py",  # which GPUs are seen, before any is used
        "model/gpu/cuda.py",
        "model/device_names.py",
        "model/devices.py",
        "model/runner.py",
    )
    others = [path for path in SERVING if name(path) not in places]
    said = {
        name(path): path.read_text().lower().replace("cuda.py", "").replace("no-cudagraphs", "")
        for path in others
    }
    assert [file for file, text in said.items() if "cuda" in text] == []


def test_a_file_has_one_subject() -> None:
    assert {name(path): n for path in FILES if (n := len(path.read_text().splitlines())) > 320} == {}


def test_a_file_says_what_it_is() -> None:
    assert [name(path) for path in FILES if not ast.get_docstring(tree_of(path))] == []


@pytest.mark.parametrize("package", ["app", "model"])
def test_tests_mirror_the_rooms(package: str) -> None:
    folders = {
        path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests" / package).rglob("test_*.py")
    }
    for folder in folders:
        assert (ROOT / folder).is_dir(), f"tests/{folder} tests no room: move them to the room they test."
