"""Figures on the photographs held out: by group, source and kind, and how far predicted IoUs can be believed."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from model.training import held_out
from model.training.held_out import GROUP_WEIGHTS, Played, figures, table, validation_figures
from model.training.pack import Pack
from model.training.reliability import calibration_error, reliability
from model.training.sessions import Estimate, Model, Session
from model.training.split import Kind
from model.training.zooming import ZoomingPredictor
from model.types import Embedding, Pixels
from tests.model.training.packs import cutout, photograph, write_tar

SOURCES = ("coco-cc", "openimages-animals", "dsb2018", "boards")


def session(first: float, later: float) -> Session:
    """IoU `first` after the first click, `later` after the rest."""
    return Session(
        (first,) + (later,) * 19,
        (Estimate(0.95, first), Estimate(0.3, 0.1)),
        (Estimate(0.85, later),),
        (0.01,) * 20,
    )


def test_a_group_weighs_what_it_shall_whatever_it_has_many_of() -> None:
    nuclei = [Played("dsb2018", frozenset({Kind.SMALL}), session(1.0, 1.0))] * 50
    scenes = [Played("coco-cc", frozenset({Kind.PART}), session(0.2, 0.6))]
    found = figures([*nuclei, *scenes])
    share = GROUP_WEIGHTS["nuclei"] / (GROUP_WEIGHTS["nuclei"] + GROUP_WEIGHTS["scenes"])
    assert found.overall.objects == 51
    assert found.overall.miou_at_1 == pytest.approx(share * 1.0 + (1 - share) * 0.2)
    assert found.overall.miou_at_5 == pytest.approx(share * 1.0 + (1 - share) * 0.6)
    assert found.overall.noc_85 == pytest.approx(share * 1 + (1 - share) * 20)
    assert (found.sources["coco-cc"].noc_90, found.sources["dsb2018"].noc_90) == (20, 1)
    assert {name: row.objects for name, row in found.kinds.items()} == {"small": 50, "part": 1}


def test_weights_are_of_everyday_scenes_most_and_add_up() -> None:
    assert sum(GROUP_WEIGHTS.values()) == pytest.approx(1)
    assert GROUP_WEIGHTS["scenes"] + GROUP_WEIGHTS["animals"] + GROUP_WEIGHTS["persons"] >= 0.7
    assert held_out.group_of("mandarins") == held_out.group_of("unheard of") == "things"


def test_predictions_are_compared_with_what_is_true_in_bins() -> None:
    estimates = [Estimate(0.95, 0.7), Estimate(0.92, 0.9), Estimate(0.5, 0.6), Estimate(1.02, 0.8)]
    bins = reliability(estimates)
    assert [x.masks for x in bins] == [0, 1, 0, 0, 0, 3]
    assert (bins[-1].predicted, bins[-1].true) == (pytest.approx(2.89 / 3), pytest.approx(0.8))
    assert calibration_error(bins) == pytest.approx((0.1 + 3 * (2.89 / 3 - 0.8)) / 4)
    assert calibration_error(reliability([])) == 0


def test_the_table_shows_all_of_it() -> None:
    shown = table(figures([Played("food", frozenset({Kind.THIN}), session(0.5, 0.9))]))
    for line in (
        "| **all, weighted** | 1 | 0.500 | 0.900 | 0.900 | 2.00 | 2.00 |",
        "| source: food | 1 |",
        "| kind: thin | 1 |",
        "| 0.9 to 1.0 | 1 | 0.950 | 0.500 | 0 |  |  |",
        "| 0.8 to 0.9 | 0 |  |  | 1 | 0.850 | 0.900 |",
    ):
        assert line in shown


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a photograph of each source that is held out, one that is not, and a cut-out."""
    pictures = []
    for source in SOURCES:
        names = (f"{source}{number}.jpg" for number in range(1000))
        pictures.append(next(x for x in (photograph(name, source) for name in names) if x.place < 0.2))
    kept = next(x for x in (photograph(f"{n}.jpg") for n in range(9)) if not x.is_held_out)
    write_tar(tmp_path / "a.tar", [*pictures, kept, cutout()])
    return tmp_path


def test_the_command_measures_what_is_held_out(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    zoomed: list[Model] = []

    class Zooming(ZoomingPredictor):
        def __init__(self, model: Model, embedding: Embedding, pixels: Pixels) -> None:
            zoomed.append(model)
            super().__init__(model, embedding, pixels)

    monkeypatch.setattr(held_out, "ZoomingPredictor", Zooming)
    out = data / "figures.json"
    options = ["--checkpoint", "untrained", "--side", "64", "--dtype", "float32", "--json", str(out)]
    assert held_out.main([str(data), *options]) == 0
    assert not zoomed
    shown = capsys.readouterr().out
    assert "builtin (untrained), 64 px, float32, cpu: 4 photographs held out" in shown
    found = json.loads(out.read_text())
    assert set(found["sources"]) == set(SOURCES)
    assert found["overall"]["objects"] == 8
    assert sum(x["masks"] for x in found["first"]) == 3 * 8
    assert held_out.main([str(data), *options, "--zoom"]) == 0
    assert len(zoomed) == 8


def test_the_command_says_what_is_missing(
    data: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert held_out.main([str(empty)]) == 1
    assert "There is no tar file" in capsys.readouterr().err
    write_tar(empty / "a.tar", [cutout()])
    assert held_out.main([str(empty)]) == 1
    assert "is held out" in capsys.readouterr().err
    assert held_out.main([str(data), "--checkpoint", str(empty / "gone.pt")]) == 1
    assert "gone.pt cannot be read" in capsys.readouterr().err


def test_a_pack_with_nothing_held_out_has_no_validation() -> None:
    assert validation_figures(Pack((), (), ()), {}, side=64, device="cpu") == {}
    assert asdict(figures([Played("food", frozenset(), session(0.5, 0.9))]))["kinds"] == {}
