"""The perceptron that predicts IoUs learns which of three masks is the best, and nothing else changes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from model.checkpoints.download import BUILTIN_PATH
from model.network.config import BUILTIN, VARIANTS
from model.network.layers import Mlp
from model.training import ranking
from model.training.export import read_weights
from model.training.network import network_of
from model.training.pack import Pack, PackError
from model.training.ranking import HEAD, Clicks, fit, look, reached
from tests.model.training.packs import background, cutout, photograph, write_pack


def clicks(*, seed: int = 0) -> Clicks:
    """512 first clicks whose tokens say which mask is the best, and 64 later ones of another kind."""
    generator = torch.Generator().manual_seed(seed)
    best = torch.randint(3, (512,), generator=generator)
    noise = torch.randn(512, 16, generator=generator) / 4
    tokens = noise + F.one_hot(best, 16)
    ious = 0.2 + 0.6 * F.one_hot(best, 3).float()
    later = torch.randn(64, 16, generator=generator) / 4 + F.one_hot(torch.tensor([9]), 16)
    return Clicks(tokens, ious, torch.ones(512), later)


def perceptron() -> Mlp:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return Mlp(16, 32, 4, depth=3, activation=F.relu)


def test_it_learns_which_mask_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "EPOCHS", 200)
    head = perceptron()
    before, most = reached(head, clicks())
    fit(head, clicks())
    after, _ = reached(head, clicks(seed=1))  # others of the same kind
    assert most == pytest.approx(0.8)
    assert before < 0.6
    assert after > 0.75


def test_later_clicks_keep_their_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "EPOCHS", 100)

    def moved(weight: float) -> float:
        monkeypatch.setattr(ranking, "KEPT_WEIGHT", weight)
        head, seen = perceptron(), clicks()
        before = head(seen.later).sigmoid().detach()
        fit(head, seen)
        return float((head(seen.later).sigmoid() - before).detach().abs().mean())

    assert moved(ranking.KEPT_WEIGHT) < 0.6 * moved(0.0)


def test_a_group_counts_as_much_as_on_the_split() -> None:
    pictures = (
        photograph("a.jpg", "coco-cc"),
        photograph("b.jpg", "coco-cc"),
        photograph("c.jpg", "dsb2018"),
    )
    network = network_of(VARIANTS[BUILTIN], read_weights(BUILTIN_PATH))
    seen = look(network, Pack(pictures, (), ()))
    assert len(seen.tokens) == len(seen.ious) == len(seen.weights) == len(seen.later) == 12
    assert float(seen.weights.mean()) == pytest.approx(1)
    scenes, nuclei = seen.weights[:8].sum(), seen.weights[8:].sum()
    assert float(scenes / nuclei) == pytest.approx(0.35 / 0.05)
    assert bool(((seen.ious >= 0) & (seen.ious <= 1)).all())
    assert (
        float(seen.ious.max(1).values.mean()) > 0.5
    )  # discs on stripes: the masks are of what was clicked at
    again = look(network, Pack(pictures, (), ()))
    assert torch.equal(again.tokens, seen.tokens)


def test_without_objects_there_is_nothing_to_learn() -> None:
    network = network_of(VARIANTS[BUILTIN], read_weights(BUILTIN_PATH))
    with pytest.raises(PackError, match="No photograph has an object"):
        look(network, Pack((), (cutout(),), (background(),)))


def test_the_command_changes_the_estimates_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ranking, "EPOCHS", 1)
    monkeypatch.setattr(Pack, "training", lambda pack: replace(pack, photographs=pack.photographs[:1]))
    data, out = tmp_path / "data", tmp_path / "out.safetensors"
    data.mkdir()
    write_pack(data)
    assert ranking.main([str(data), str(BUILTIN_PATH), str(out)]) == 0
    assert "clicks; chosen 0." in capsys.readouterr().out
    before, after = read_weights(BUILTIN_PATH), read_weights(out)
    changed = {name for name, x in after.items() if not torch.equal(x, before[name])}
    assert changed
    assert all(name.startswith(HEAD) for name in changed)
    with safe_open(out, "pt") as file:
        *_, last = json.loads(file.metadata()["runs"])
    assert last["step"] == 1
    assert last["plan"]["ranking"] == 4


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.safetensors")
    assert ranking.main([str(tmp_path), str(BUILTIN_PATH), out]) == 1
    assert "There is no tar file" in capsys.readouterr().err
    assert ranking.main([str(tmp_path), str(tmp_path / "gone.safetensors"), out]) == 1
    assert "gone.safetensors" in capsys.readouterr().err
