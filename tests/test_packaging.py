"""Files around the code that could become outdated unnoticed: versions, constraints, make, CI, Docker."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.settings import Settings
from app.version import VERSION
from tests.server import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SETTINGS = {f"SAM2_{name.upper()}": setting for name, setting in Settings.model_fields.items()}


def test_versions_agree() -> None:
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["version"] == VERSION


def test_licence_is_there_as_the_package_says() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()


def pins() -> dict[str, Requirement]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def test_constraints_pin_all_that_is_needed_and_nothing_else() -> None:
    """For this platform: requirements for other platforms only are not checked."""
    needed: set[str] = set()
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    waiting += [
        Requirement(line) for extra in ("dev", "train") for line in PROJECT["optional-dependencies"][extra]
    ]
    while waiting:
        requirement = waiting.pop()
        extras = requirement.extras or {""}
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = canonicalize_name(requirement.name)
        if name in needed:
            continue
        needed.add(name)
        try:
            asked = distribution(name).requires or []
        except PackageNotFoundError:
            pytest.fail(f"{name} is needed but not installed here")
        waiting += [
            r for r in map(Requirement, asked) if r.marker is None or r.marker.evaluate({"extra": ""})
        ]
    # CUDA's libraries, if the installed torch has them: torch pins them itself.
    needed = {name for name in needed if not name.startswith(("nvidia-", "cuda-")) and name != "triton"}
    assert needed == set(pins())


def test_constraints_are_exact_and_public() -> None:
    for name, pin in pins().items():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)), (
            name
        )  # a local version is not available elsewhere
        assert distribution(name).version.partition("+")[0] in pin.specifier, (
            f"{name} is installed in another version"
        )


TORCH = ["pip", "uv"]
"""Modules that make runs to install torch without CUDA."""


class Sandbox:
    """A folder with our Makefile and a python3 that only records its arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "client").mkdir()
        for name in ("Makefile", "pyproject.toml", "client/pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder / name)
        self.python = folder / "python3"
        self.python.write_text(
            "#!/bin/sh\n"
            f'echo "$*" >> {folder}/calls\n'
            f'if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp {folder}/python3 "$3/bin/python"; fi\n'
            f'if [ -e {folder}/broken ] && [ "$2" = "$(cat {folder}/broken)" ]; then exit 1; fi\n'
            f'if [ -e {folder}/offline ]; then case "$*" in "-m pip"*) echo "no network" >&2; exit 1;; esac; fi\n'
            f'if [ -e {folder}/no-index ] && [ "$2" = uv ]; then echo "no such host" >&2; exit 2; fi\n'
            f'if [ -e {folder}/old ] && [ "$1" = -c ]; then exit 1; fi\n'
            'if [ "$1" = --version ]; then echo Python 3.9.2; fi\n'
        )
        self.python.chmod(0o755)

    def make(
        self, target: str, *variables: str, torch: str = "cpu"
    ) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """Run make. Return the completed process and the modules that it ran."""
        calls = self.folder / "calls"
        calls.write_text("")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(
            ["make", target, *variables, f"PYTHON={self.python}", f"TORCH={torch}"],
            cwd=self.folder,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )
        return done, re.findall(r"^-m (\w+)", calls.read_text(), re.MULTILINE)


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def test_make_serve_installs_once(sandbox: Sandbox) -> None:
    assert sandbox.make("serve")[1] == ["venv", *TORCH, "pip", "pip", "app"]
    assert sandbox.make("serve")[1] == ["app"]


def test_make_test_installs_once_and_runs_all_checks(sandbox: Sandbox) -> None:
    checks = ["ruff", "ruff", "mypy", "pytest"]
    assert sandbox.make("test")[1] == ["venv", *TORCH, "pip", "pip", *checks]
    assert sandbox.make("test")[1] == checks


def test_make_train_asks_for_folders_before_it_installs(sandbox: Sandbox) -> None:
    done, modules = sandbox.make("train", "DATA=data")
    assert done.returncode != 0
    assert "make train DATA=folder OUT=folder" in done.stderr
    assert modules == []
    assert sandbox.make("train", "DATA=data", "OUT=run")[1] == ["venv", *TORCH, "pip", "pip", "model"]
    sandbox.make("train", "DATA=data", "OUT=run", "TRAIN=--steps 5")
    assert "-m model.training data run --steps 5" in (sandbox.folder / "calls").read_text()


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_make_installs_again_what_has_changed(sandbox: Sandbox, name: str) -> None:
    sandbox.make("serve")
    later = (sandbox.folder / ".venv/serve.stamp").stat().st_mtime + 10
    os.utime(sandbox.folder / name, (later, later))
    torch = TORCH if name == "constraints.txt" else []
    assert sandbox.make("serve")[1] == [*torch, "pip", "pip", "app"]


def test_an_install_that_fails_shows_why_and_goes_on_the_next_time(sandbox: Sandbox) -> None:
    offline = sandbox.folder / "offline"
    offline.touch()
    done, modules = sandbox.make("serve")
    assert done.returncode != 0
    assert "no network" in done.stderr
    assert "app" not in modules
    offline.unlink()
    assert sandbox.make("serve")[1] == [*TORCH, "pip", "pip", "app"]


def test_without_a_gpu_torch_comes_without_cuda(sandbox: Sandbox) -> None:
    done, _ = sandbox.make("serve", torch="auto" if not Path("/dev/nvidiactl").exists() else "cpu")
    calls = (sandbox.folder / "calls").read_text()
    assert "-m uv pip install --quiet --python .venv/bin/python --torch-backend=cpu" in calls
    assert "190 MB to download" in done.stdout


def test_without_its_index_torch_comes_from_the_package_index_and_make_says_so(sandbox: Sandbox) -> None:
    (sandbox.folder / "no-index").touch()
    done, modules = sandbox.make("serve")
    assert done.returncode == 0
    assert modules == ["venv", "pip", "uv", "pip", "pip", "pip", "app"]
    assert "uv: no such host" in done.stdout
    assert "2.7 GB to download" in done.stdout


def test_torch_may_be_chosen_and_changed(sandbox: Sandbox) -> None:
    done, modules = sandbox.make("serve", torch="cuda")
    assert "torch with CUDA, 2.7 GB to download" in done.stdout
    assert modules == ["venv", "pip", "pip", "pip", "app"]
    assert sandbox.make("serve", torch="auto")[1] == ["app"]  # keeps the installed build
    assert sandbox.make("serve", torch="cpu")[1] == ["pip", *TORCH, "pip", "pip", "app"]
    assert "-m pip uninstall --quiet --quiet --yes torch" in (sandbox.folder / "calls").read_text()
    assert sandbox.make("serve", torch="cpu")[1] == ["app"]


def test_an_unknown_build_of_torch_is_refused_before_anything_is_installed(sandbox: Sandbox) -> None:
    done, modules = sandbox.make("serve", torch="rocm")
    assert done.returncode != 0
    assert "TORCH=rocm is not known: use TORCH=cpu, TORCH=cuda or TORCH=auto." in done.stderr
    assert "pip" not in modules


def test_make_says_which_python_is_too_old(sandbox: Sandbox) -> None:
    (sandbox.folder / "old").touch()
    done, modules = sandbox.make("serve")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "Python 3.9.2" in done.stderr
    assert modules == []


def test_make_test_tools_goes_on_after_a_failure_and_installs_each_tool_once(sandbox: Sandbox) -> None:
    lists = sandbox.folder / "tests" / "tools"
    lists.mkdir(parents=True)
    for name in ("ant", "bee", "cat"):
        (lists / f"{name}.txt").write_text("")

    def ran() -> tuple[int, str, list[str]]:
        done, _ = sandbox.make("test-tools")
        calls = (sandbox.folder / "calls").read_text()
        return done.returncode, done.stderr, re.findall(r"tests[./]tools[./]\S+", calls)

    (sandbox.folder / "broken").write_text("tests.tools.bee")
    code, said, calls = ran()
    assert (code, said.splitlines()[0]) == (2, "Failed: bee")  # make's own status for any failure
    each = [(f"tests/tools/{name}.txt", f"tests.tools.{name}") for name in ("ant", "bee", "cat")]
    assert calls == [call for pair in each for call in pair]
    (sandbox.folder / "broken").unlink()
    assert ran() == (0, "", [script for _, script in each])
    os.utime(lists / "cat.txt", (2**32, 2**32))
    assert ran()[2] == ["tests.tools.ant", "tests.tools.bee", *each[2]]
    sandbox.make("clean")
    assert not (sandbox.folder / ".tools").exists()


def test_the_packages_of_tools_are_pinned_and_each_list_has_its_script() -> None:
    for path in (ROOT / "tests" / "tools").glob("*.txt"):
        assert path.with_suffix(".py").exists()
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), path.name


def test_make_alone_lists_the_targets(sandbox: Sandbox) -> None:
    done = subprocess.run(["make"], cwd=sandbox.folder, capture_output=True, text=True, check=True)
    assert re.findall(r"^make ([\w-]+)", done.stdout, re.MULTILINE) == [
        "help",
        "serve",
        "test",
        "test-tools",
        "check",
        "train",
        "bench",
        "gpu-bench-kit",
        "soak",
        "clean",
    ]


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert script.read_text().rstrip().endswith("make test")


def test_docker_and_compose_name_only_settings_that_exist() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    for name in re.findall(r"\bSAM2_[A-Z0-9_]+", DOCKERFILE + compose):
        assert name in SETTINGS


def test_image_copies_only_what_the_context_holds() -> None:
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.MULTILINE)
    assert sorted(copied) == sorted(let_in)
    assert all((ROOT / name).exists() for name in copied)


def test_image_does_not_run_as_root() -> None:
    last_stage = DOCKERFILE.split("\nFROM ")[-1]
    assert re.search(r"^USER sam2$", last_stage, re.MULTILINE)


@contextmanager
def answering(status: int) -> Iterator[int]:
    """Yield the port of a server that answers GET /readyz with this status, and everything else with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_healthcheck_of_the_image(status: int, healthy: bool) -> None:
    command = json.loads(re.search(r"HEALTHCHECK (?:.*\\\n)+ +CMD (\[.*\])", DOCKERFILE)[1])
    assert command[0] == "python"
    with answering(status) as port:
        done = subprocess.run(
            [sys.executable, *command[1:]], env=os.environ | {"SAM2_PORT": str(port)}, check=False
        )
    assert (done.returncode == 0) is healthy


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_compose_serves_with_a_gpu_unless_asked_otherwise(compose: dict[str, Any]) -> None:
    services = compose["services"]
    (default,) = (name for name, service in services.items() if "profiles" not in service)
    (device,) = services[default]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert services["sam2-cpu"]["profiles"] == ["cpu"]
    assert "deploy" not in services["sam2-cpu"]
    # With "auto", a host with an old driver would serve the large model on its CPU.
    assert services[default]["environment"]["SAM2_DEVICE"] == "cuda"
    assert services["sam2-cpu"]["environment"]["SAM2_DEVICE"] == "cpu"


def test_compose_leaves_the_server_no_rights_and_nothing_to_write_to(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")
        assert "user" not in service  # the user of the image, which is not root
        writable = [mount.split(":")[0] for mount in service["tmpfs"]]
        writable += [volume.split(":")[1] for volume in service["volumes"]]
        home = re.search(r"\bHOME=(\S+)", DOCKERFILE)[1]
        assert home in writable  # where libraries keep their caches


def test_compose_gives_settings_that_the_server_accepts(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        Settings(
            **{name.removeprefix("SAM2_").lower(): value for name, value in service["environment"].items()}
        )
        volumes = [volume.split(":")[1] for volume in service["volumes"]]
        assert volumes == [
            re.search(rf"SAM2_{name}_DIR=(\S+)", DOCKERFILE)[1] for name in ("WEIGHTS", "CACHE")
        ]
        assert service["ports"] == [
            "127.0.0.1:8000:8000"
        ]  # there are no keys, so the operator must allow other machines
        assert {volume.split(":")[0] for volume in service["volumes"]} <= compose["volumes"].keys()
