"""Our own code of an earlier commit, beside today's in one process.

Its `model` package is taken out of git and imported under another name. Does not know what is measured.
"""

import importlib
import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
NAME = "model_before"


def runner_module(commit: str, folder: Path) -> ModuleType:
    """Return model/runner.py of a commit as a module; `folder` takes the files. Raises ValueError for no commit."""
    command = ["git", "-C", str(ROOT), "archive", commit, "model"]
    archive = subprocess.run(command, capture_output=True, check=False)
    if archive.returncode:
        raise ValueError(f"--before {commit}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    (folder / "model").rename(folder / NAME)
    for path in (folder / NAME).rglob("*.py"):
        path.write_text(re.sub(r"^(\s*(?:from|import)) model\b", rf"\1 {NAME}", path.read_text(), flags=re.M))
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(f"{NAME}.runner")
    finally:
        sys.path.remove(str(folder))
