"""The exported decoder in ONNX Runtime says what the model itself says."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from model.checkpoints.download import BUILTIN_PATH
from model.errors import ExportError
from model.exporting import INPUTS, OUTPUTS, export_decoder
from model.network.config import BUILTIN, VARIANTS
from model.runner import Sam2Runner, load_runner
from model.types import LOGIT_LIMIT, Embedding, Prediction, Prompt

SIDE = VARIANTS[BUILTIN].image_size
WIDTH, HEIGHT = 120, 90
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def runner() -> Sam2Runner:
    return load_runner(BUILTIN, checkpoint=BUILTIN_PATH, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def file(runner: Sam2Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "decoder.onnx"
    size = export_decoder(runner.model, path, metadata={"model": "builtin", "fingerprint": "abc"})
    assert size == path.stat().st_size
    return path


@pytest.fixture(scope="module")
def session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def embedding(runner: Sam2Runner) -> Embedding:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    picture[(x - 60) ** 2 + (y - 45) ** 2 < 900] = (220, 90, 60)
    return runner.encode([picture])[0]


def square(*points: tuple[float, float]) -> np.ndarray:
    """Points of the picture in pixels of the model's square picture."""
    return np.array(points, np.float32).reshape(-1, 2) / np.float32([WIDTH, HEIGHT]) * np.float32(SIDE)


def feed(
    embedding: Embedding,
    coords: np.ndarray,
    labels: list[list[int]],
    mask: np.ndarray | None = None,
) -> Arrays:
    """Inputs of one or more prompts of one point count."""
    side = SIDE // 4
    return embedding.to_arrays(np.float32) | {
        "point_coords": coords.reshape(len(labels), -1, 2).astype(np.float32),
        "point_labels": np.array(labels, np.float32).reshape(len(labels), -1),
        "mask_input": np.zeros((len(labels), 1, side, side), np.float32) if mask is None else mask,
        "has_mask_input": np.full(len(labels), mask is not None, np.float32),
    }


def agree(logits: np.ndarray, iou: np.ndarray, prediction: Prediction) -> None:
    np.testing.assert_allclose(iou, prediction.iou, atol=1e-4)
    np.testing.assert_allclose(logits, np.asarray(prediction.logits), atol=2e-2)


PROMPTS = [
    Prompt(points=((60.0, 45.0),), labels=(1,), multimask_output=True),
    Prompt(points=((60.0, 45.0), (5.0, 5.0)), labels=(1, 0), multimask_output=True),
    Prompt(box=(30.0, 15.0, 90.0, 75.0), multimask_output=True),
    Prompt(points=((60.0, 45.0),), labels=(0,), box=(30.0, 15.0, 90.0, 75.0), multimask_output=True),
]


def points_of(prompt: Prompt) -> tuple[np.ndarray, list[int]]:
    box = [(prompt.box[0], prompt.box[1]), (prompt.box[2], prompt.box[3])] if prompt.box else []
    return square(*box, *prompt.points), [2, 3][: len(box)] + list(prompt.labels)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_graph_gives_the_model_s_masks(runner, session, embedding, prompt):
    coords, labels = points_of(prompt)
    masks, iou = session.run(list(OUTPUTS), feed(embedding, coords, [labels]))
    side = SIDE // 4
    assert (masks.shape, iou.shape) == ((1, 4, side, side), (1, 4))
    agree(masks[0, 1:], iou[0, 1:], runner.decode([(embedding, prompt)])[0])


def test_the_first_mask_is_the_single_one(runner, session, embedding):
    prompt = Prompt(box=(30.0, 15.0, 90.0, 75.0), multimask_output=False)
    coords, labels = points_of(prompt)
    masks, iou = session.run(None, feed(embedding, coords, [labels]))
    agree(masks[0, :1], iou[0, :1], runner.decode([(embedding, prompt)])[0])


def test_logits_go_back_in_for_refinement(runner, session, embedding):
    coords, labels = points_of(PROMPTS[0])
    masks, iou = session.run(None, feed(embedding, coords, [labels]))
    best = masks[:, 1:][:, [int(iou[0, 1:].argmax())]]
    coords, labels = points_of(PROMPTS[1])
    refined, scores = session.run(None, feed(embedding, coords, [labels], mask=best * 10))
    prompt = Prompt(
        points=PROMPTS[1].points,
        labels=PROMPTS[1].labels,
        mask_logits=(best[0, 0] * 10).clip(-LOGIT_LIMIT, LOGIT_LIMIT),
        multimask_output=True,
    )
    expected = runner.decode([(embedding, prompt)])[0]
    agree(refined[0, 1:], scores[0, 1:], expected)
    plain, _ = session.run(None, feed(embedding, coords, [labels]))
    assert np.abs(plain - refined).max() > 0.1  # else it shows nothing


def test_a_mask_alone_has_no_padding_point(runner, session, embedding):
    coords, labels = points_of(PROMPTS[0])
    best = session.run(None, feed(embedding, coords, [labels]))[0][:, 1:2].clip(-LOGIT_LIMIT, LOGIT_LIMIT)
    masks, iou = session.run(None, feed(embedding, np.zeros((0, 2)), [[]], mask=best))
    prompt = Prompt(mask_logits=best[0, 0], multimask_output=True)
    agree(masks[0, 1:], iou[0, 1:], runner.decode([(embedding, prompt)])[0])


@pytest.mark.parametrize("masks_given", [1, 3])
def test_several_prompts_at_once_are_their_singles(session, embedding, masks_given):
    """A page may send one empty mask for all of them."""
    coords = np.stack([square((60, 45)), square((20, 70)), square((100, 10))])
    inputs = feed(embedding, coords, [[1], [1], [0]])
    inputs["mask_input"] = inputs["mask_input"][:masks_given]
    inputs["has_mask_input"] = inputs["has_mask_input"][:masks_given]
    masks, iou = session.run(None, inputs)
    assert masks.shape[:2] == iou.shape == (3, 4)
    for i, label in enumerate((1, 1, 0)):
        one, score = session.run(None, feed(embedding, coords[i], [[label]]))
        np.testing.assert_allclose(masks[i], one[0], atol=1e-2)
        np.testing.assert_allclose(iou[i], score[0], atol=1e-4)


def test_names_shapes_and_what_it_is_of_are_in_the_file(file, session):
    assert [each.name for each in session.get_inputs()] == list(INPUTS)
    assert [each.name for each in session.get_outputs()] == list(OUTPUTS)
    shapes = {each.name: each.shape for each in session.get_inputs()}
    side = SIDE // 16
    assert shapes["image_embed"] == [1, 256, side, side]
    assert shapes["high_res_feats_0"] == [1, 32, 4 * side, 4 * side]
    assert shapes["high_res_feats_1"] == [1, 64, 2 * side, 2 * side]
    assert shapes["point_coords"] == ["num_labels", "num_points", 2]
    assert shapes["mask_input"] == ["num_labels", 1, 4 * side, 4 * side]
    assert shapes["has_mask_input"] == ["num_labels"]
    assert {each.type for each in session.get_inputs()} == {"tensor(float)"}
    assert session.get_modelmeta().custom_metadata_map == {"model": "builtin", "fingerprint": "abc"}
    graph = onnx.load(file)
    assert [(each.domain, each.version) for each in graph.opset_import] == [("", 17)]


def test_nothing_is_left_where_it_cannot_be_written(runner, tmp_path):
    with pytest.raises(ExportError, match=r"Cannot write .*absent/decoder.onnx: No such file"):
        export_decoder(runner.model, tmp_path / "absent" / "decoder.onnx", metadata={})
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExportError, match=r"Cannot write .*folder: Is a directory"):
        export_decoder(runner.model, tmp_path / "folder", metadata={})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_is_no_file_is_written_to_and_not_replaced(runner, tmp_path):
    device = tmp_path / "decoder.onnx"
    device.symlink_to("/dev/full")
    with pytest.raises(ExportError, match=r"Cannot write .*decoder.onnx: No space left on device"):
        export_decoder(runner.model, device, metadata={})
    assert device.is_symlink()
    device.unlink()
    device.symlink_to("/dev/null")
    assert export_decoder(runner.model, device, metadata={}) > 2**20
    assert device.is_symlink()


def test_without_onnx_the_extra_is_named(runner, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"'\.\[onnx\]'"):
        export_decoder(runner.model, tmp_path / "decoder.onnx", metadata={})
    assert not list(tmp_path.iterdir())
