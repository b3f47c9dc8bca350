"""What make installs and runs, with a Python that only records its arguments."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server import ROOT

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
    install = ["venv", *TORCH, "pip", "pip"]
    first, again = sandbox.make("test")[1], sandbox.make("test")[1]
    assert first[: len(install)] == install
    for run in (first[len(install) :], again):
        *checks, last = run
        assert last == "pytest"
        checks.remove("pytest")  # it compiles the tests while the checks run
        assert checks == ["ruff", "ruff", "mypy"]
    (sandbox.folder / "broken").write_text("mypy")
    done, modules = sandbox.make("test")
    assert done.returncode != 0
    assert "Running the tests." not in done.stdout
    assert modules.count("pytest") == 1


def test_make_check_js_needs_no_package_of_python(sandbox: Sandbox) -> None:
    assert sandbox.make("check-js")[1] == ["venv", "tests"]
    assert sandbox.make("check-js")[1] == ["tests"]


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
        "coverage",
        "test-golden",
        "test-cluster",
        "test-tools",
        "check-js",
        "check",
        "train",
        "bench",
        "gpu-bench-kit",
        "soak",
        "clean",
    ]
