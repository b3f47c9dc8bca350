"""Runs the cells of the notebook in examples/ in order, against the service with a fake model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_server import Served
from PIL import Image

from tests.fakes import RADII, disc_mask

NOTEBOOK = Path(__file__).parents[2] / "examples/embed_click_refine.ipynb"


def run(notebook: Path) -> dict[str, Any]:
    """Run the code cells of a notebook in order. Return the names that they define."""
    names: dict[str, Any] = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook.name}, {cell['id']}", "exec"), names)  # noqa: S102
    return names


def test_it_runs_from_top_to_bottom(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM2_URL", served.url)
    names = run(NOTEBOOK)
    x, y = names["click"]
    wanted = disc_mask(x, y, RADII[1], height=480, width=640)
    assert (names["read"] == wanted).all()
    assert len(names["candidates"]) == 3
    assert f"{wanted.sum()} pixels of ball" in capsys.readouterr().out

    before, after = (np.asarray(Image.open(tmp_path / name), int) for name in ("picture.png", "overlay.png"))
    changed = (before != after).any(axis=-1)
    assert changed[wanted].all()
    assert changed[~wanted].mean() < 0.02  # only the outline and the click marker
    (annotation,) = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    assert annotation["area"] == wanted.sum()


def test_it_is_committed_without_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
