"""README, docs/ and the other pages are true and short: tables against the code, links, lengths."""

import re
from http import HTTPStatus
from pathlib import Path

import pytest
import yaml

from app import errors, names_errors, track_errors
from app.doors.doors import ALL
from app.doors.roboflow import ROBOFLOW
from app.main import create_app
from app.middleware.callers import FREE
from app.settings import Settings
from tests.server import ROOT
from tests.test_architecture import ROOMS

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "client/README.md"])
MOST_LINES = 150
SETTINGS = {f"SAM2_{name.upper()}": setting for name, setting in Settings.model_fields.items()}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_settings_page_lists_every_setting_and_no_other() -> None:
    """If this fails, paste the rows that it shows as expected."""
    expected = []
    for name, setting in SETTINGS.items():
        default = str(setting.default) if setting.default_factory is None else ""
        shown = f"`{default}`" if default else "-"
        expected.append(f"| `{name}` | {shown} | {setting.description} |")
    assert re.findall(r"^\| `SAM2_.*$", read("docs/settings.md"), re.MULTILINE) == expected


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_name_only_settings_that_exist(page: Path) -> None:
    named = set(re.findall(r"\bSAM2_[A-Z0-9_]*[A-Z0-9]\b(?!_?\*)", page.read_text()))
    others = {"SAM2_GOLDEN_DIR", "SAM2_URL", "SAM2_API_KEY"}  # of the tests, the examples and the client
    if page.name != "CHANGELOG.md":  # which names what settings were called before
        assert named <= SETTINGS.keys() | others


@pytest.mark.parametrize("page", ["README.md", "docs/http-api.md"])
def test_pages_list_every_endpoint(page: str) -> None:
    table = "\n".join(line for line in read(page).splitlines() if line.startswith("|"))
    described = create_app(Settings()).openapi()["paths"]
    for path, methods in described.items():
        for method in methods:
            row = (
                rf"`(?:GET`, `)?{method.upper()}[^|]*{re.escape(path)}`|`{method.upper()} {re.escape(path)}`"
            )
            assert re.search(row, table), f"{page} has no row for {method.upper()} {path}"
    assert "`/decode/stream`" in table


def test_the_http_page_lists_every_error_with_its_status() -> None:
    table = re.findall(r"^\| (\d{3}) \| (.*?) \|", read("docs/http-api.md"), re.MULTILINE)
    listed = {(int(status), code) for status, codes in table for code in re.findall(r"`(\w+)`", codes)}
    raised = {
        (error.status, error.code)
        for module in (errors, names_errors, track_errors)
        for error in vars(module).values()
        if isinstance(error, type)
        and issubclass(error, errors.ServiceError)
        and error is not errors.ServiceError
    }
    assert raised | {(500, errors.ServiceError.code)} == listed
    for status in (405, 426):  # Starlette's own errors, of paths that exist
        assert f"{status} `{HTTPStatus(status).name.lower()}`" in read("docs/http-api.md")


def test_the_http_page_says_what_is_taken_where_nothing_is_given() -> None:
    page, described = read("docs/http-api.md"), create_app(Settings()).openapi()["paths"]
    given = {
        each["name"]: each["schema"].get("default")
        for path in ("/images", "/images/{image_id}/embedding")
        for each in described[path]["get"]["parameters"]
    }
    assert f"`limit`, 1 to 1000, default {given['limit']};" in page
    for name in ("format", "dtype"):
        assert f"`{name}={given[name]}` (default)" in page


@pytest.mark.parametrize("page", ["docs/operating.md", "SECURITY.md"])
def test_pages_name_every_path_that_needs_no_key(page: str) -> None:
    """But for folders of the pages' scripts, and for Roboflow's paths, whose keys are in bodies."""
    free = FREE | {path for door in ALL for path in door.free if door is not ROBOFLOW}
    pages = {"/", "/client.js", "/docs", "/openapi.json"}
    named = set(re.findall(r"`(/[\w/.-]*)`", read(page)))
    assert free - pages <= named


def test_the_architecture_page_lists_the_rooms_on_their_floors() -> None:
    listed: dict[str, int] = {}
    for floor, cell in re.findall(r"^\| (\d) \| (.*?) \|", read("docs/architecture.md"), re.MULTILINE):
        names = re.findall(r"`(.*?)`", cell)
        package = names[0].split("/")[0]
        for each in names:
            inner = each.removeprefix(f"{package}/").removesuffix("/").removesuffix(".py")
            listed[f"{package}.{inner}"] = int(floor)
    assert listed == {room: entry.floor for room, entry in ROOMS.items()}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", page.read_text()):
        if target and not target.startswith("http"):
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_sections_lead_to_one(page: Path) -> None:
    for target, section in re.findall(r"\]\(([^)#\s]*)#([^)]*)\)", page.read_text()):
        if not target.startswith("http"):
            headings = re.findall(r"^#+ (.*)$", (page.parent / target).read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert section in anchors, f"{name_of(page)} links to {target}#{section}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_are_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= MOST_LINES


def test_the_workflow_tests_every_python_that_the_package_supports() -> None:
    workflow = yaml.safe_load(read(".github/workflows/test.yml"))
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert job["steps"][-1] == {"run": "make test"}
    assert "Python 3.11 to 3.13" in read("README.md")


def test_pre_commit_runs_the_ruff_that_is_pinned() -> None:
    (hook,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert f"ruff=={hook['rev'].removeprefix('v')}" in read("constraints.txt").splitlines()
