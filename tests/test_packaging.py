"""Files around the code that could become outdated unnoticed: versions, constraints, CI."""

import json
import os
import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.version import VERSION
from tests.server import ROOT

JAVASCRIPT = json.loads((ROOT / "client/js/package.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_versions_agree() -> None:
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["version"] == VERSION
    assert JAVASCRIPT["version"] == VERSION


def test_licence_is_there_as_the_package_says() -> None:
    assert PROJECT["license"] == JAVASCRIPT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    assert (ROOT / "client/js/LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_a_clone_without_symbolic_links_is_whole() -> None:
    """Git on Windows writes a link's target as text; the README's first picture was 20 bytes there."""
    for copy, of in (("docs/hats.jpg", "app/page/hats.jpg"), ("client/LICENSE", "LICENSE")):
        assert not (ROOT / copy).is_symlink()
        assert (ROOT / copy).read_bytes() == (ROOT / of).read_bytes()


def test_what_the_javascript_client_is_checked_with_is_pinned_and_it_needs_nothing() -> None:
    assert "dependencies" not in JAVASCRIPT
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in JAVASCRIPT["devDependencies"].values())
    assert JAVASCRIPT["exports"]["."] == {"types": JAVASCRIPT["types"], "default": "./index.js"}
    assert (JAVASCRIPT["name"], JAVASCRIPT["type"]) == ("sam2-client", "module")


def pins() -> dict[str, Requirement]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def test_constraints_pin_all_that_is_needed_and_nothing_else() -> None:
    """For this platform: requirements for other platforms only are not checked."""
    needed: set[tuple[str, str]] = set()
    lines = [*PROJECT["dependencies"], *(line for extra in ("dev", "train") for line in EXTRAS[extra])]
    waiting = [each for each in map(Requirement, lines) if applies(each, {""})]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        new = {(name, extra) for extra in {"", *requirement.extras}} - needed
        if not new:
            continue
        needed |= new
        try:
            asked = distribution(name).requires or []
        except PackageNotFoundError:
            pytest.fail(f"{name} is needed but not installed here")
        waiting += [each for each in map(Requirement, asked) if applies(each, {extra for _, extra in new})]
    # CUDA's libraries, if the installed torch has them: torch pins them itself.
    names = {name for name, _ in needed if not name.startswith(("nvidia-", "cuda-")) and name != "triton"}
    assert names == set(pins())


def test_constraints_are_exact_and_public() -> None:
    for name, pin in pins().items():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)), (
            name
        )  # a local version is not available elsewhere
        assert distribution(name).version.partition("+")[0] in pin.specifier, (
            f"{name} is installed in another version"
        )


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert script.read_text().rstrip().endswith("make test")
