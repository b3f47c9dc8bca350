"""The model on its device: pictures and prompts of any mix, in one batch or alone, at any picture size."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.checkpoints.parameters import untrained_parameters
from model.devices import resolve_device, resolve_dtype
from model.network.config import BUILTIN, VARIANTS, Sam2Config
from model.network.sam2 import Sam2
from model.runner import Sam2Runner, load_runner
from model.types import Embedding, Pixels, Prediction, Prompt
from tests.golden.recipe import image

TINY = VARIANTS["sam2.1_hiera_tiny"]
CPU = torch.device("cpu")


def make_runner(config: Sam2Config, *, dtype: torch.dtype = torch.float32) -> Sam2Runner:
    with torch.device("meta"):
        model = Sam2(config)
    fingerprint = untrained_parameters(model, device=CPU, dtype=dtype)
    return Sam2Runner(model, name="small", weights_fingerprint=fingerprint)


@pytest.fixture(scope="module")
def runner() -> Sam2Runner:
    return make_runner(replace(TINY, image_size=256))


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    return [image("first", 320, 200), image("second", 90, 160)]


@pytest.fixture(scope="module")
def embeddings(runner: Sam2Runner, pictures: list[Pixels]) -> list[Embedding]:
    return runner.encode(pictures)


def prompts_of_every_kind(mask: np.ndarray) -> list[Prompt]:
    return [
        Prompt(points=((30.0, 40.0),), labels=(1,)),
        Prompt(points=((30.0, 40.0),), labels=(1,), multimask_output=False),
        Prompt(points=((30.0, 40.0), (60.5, 80.0)), labels=(1, 0), multimask_output=False),
        Prompt(box=(10.0, 20.0, 80.0, 90.0), multimask_output=False),
        Prompt(box=(10.0, 20.0, 80.0, 90.0), points=((50.0, 60.0),), labels=(0,)),
        Prompt(mask_logits=mask),
        Prompt(mask_logits=mask, points=((30.0, 40.0),), labels=(1,), multimask_output=False),
        Prompt(mask_logits=-mask, box=(0.0, 0.0, 50.0, 50.0)),
        Prompt(points=tuple((float(i), float(i)) for i in range(12)), labels=(1, 0) * 6),
    ]


def assert_equal(actual: Prediction, expected: Prediction, *, tolerance: float) -> None:
    assert actual.logits.shape == expected.logits.shape
    difference = np.linalg.norm(actual.logits - expected.logits) / np.linalg.norm(expected.logits)
    assert difference <= tolerance
    np.testing.assert_allclose(actual.iou, expected.iou, atol=tolerance)
    assert actual.object_score == pytest.approx(expected.object_score, abs=10 * tolerance)


def test_a_mixed_batch_of_prompts_equals_its_singles(runner: Sam2Runner, embeddings: list[Embedding]) -> None:
    mask = runner.decode([(embeddings[0], Prompt(points=((9.0, 9.0),), labels=(1,)))])[0].logits[0]
    jobs = [(e, p) for p in prompts_of_every_kind(mask) for e in embeddings for _ in range(2)]
    together = runner.decode(jobs)
    for job, prediction in zip(jobs, together, strict=True):
        assert_equal(prediction, runner.decode([job])[0], tolerance=1e-5)
    assert {p.logits.shape[0] for p in together} == {1, 3}


def test_a_batch_of_pictures_equals_its_singles(
    runner: Sam2Runner, pictures: list[Pixels], embeddings: list[Embedding]
) -> None:
    for picture, together in zip(pictures, embeddings, strict=True):
        (alone,) = runner.encode([picture])
        assert (alone.height, alone.width) == picture.shape[:2] == (together.height, together.width)
        for actual, expected in zip(together.maps(), alone.maps(), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_prompts_matter(runner: Sam2Runner, embeddings: list[Embedding]) -> None:
    mask = np.linspace(-9, 9, 64 * 64, dtype=np.float32).reshape(64, 64)
    answers = runner.decode([(embeddings[0], p) for p in prompts_of_every_kind(mask)])
    # The second is the first again: its single mask is not stable, and gives way to one of the three.
    first_masks = [a.logits[0] for i, a in enumerate(answers) if i != 1]
    for i, one in enumerate(first_masks):
        for other in first_masks[i + 1 :]:
            assert not np.allclose(one, other, atol=1e-4)


def test_another_picture_size_works_and_shows_in_every_shape(runner: Sam2Runner) -> None:
    wide = make_runner(replace(TINY, image_size=416))
    (embedding,) = wide.encode([image("any", 50, 70)])
    assert [tuple(m.shape) for m in embedding.maps()] == [(256, 26, 26), (32, 104, 104), (64, 52, 52)]
    assert wide.mask_size == (104, 104)
    mask = np.ones((104, 104), np.float32)
    (prediction,) = wide.decode([(embedding, Prompt(mask_logits=mask))])
    assert prediction.logits.shape == (3, 104, 104)
    assert wide.fingerprint != runner.fingerprint


@pytest.mark.parametrize("size", [0, -32, 1000])
def test_a_picture_size_that_the_strides_do_not_divide_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 32, not {size}"):
        replace(TINY, image_size=size)


def test_embeddings_keep_the_models_precision_and_none_of_the_batch(
    runner: Sam2Runner, pictures: list[Pixels]
) -> None:
    half = make_runner(replace(TINY, image_size=256), dtype=torch.bfloat16)
    (one, two), (reference, _) = half.encode(pictures), runner.encode(pictures)
    assert one.image_rows.dtype == torch.bfloat16
    assert one.nbytes * 2 == reference.nbytes
    assert one.image_rows.untyped_storage().nbytes() == one.image_rows.nbytes
    assert one.image_rows.untyped_storage().data_ptr() != two.image_rows.untyped_storage().data_ptr()
    arrays = one.to_arrays(np.float16)
    assert {name: a.shape for name, a in arrays.items()} == {
        "image_embed": (1, 256, 16, 16),
        "high_res_feats_0": (1, 32, 64, 64),
        "high_res_feats_1": (1, 64, 32, 32),
    }
    error = np.abs(arrays["image_embed"][0] - reference.to_arrays(np.float32)["image_embed"][0]).mean()
    assert error < 0.05 * np.abs(reference.to_arrays(np.float32)["image_embed"][0]).mean()


def test_a_single_mask_that_is_not_stable_gives_way_to_the_best_of_three(
    runner: Sam2Runner, embeddings: list[Embedding]
) -> None:
    """Noise is never stable: the lone mask is one of the three, the one with the highest predicted IoU."""
    clicks = {"points": ((30.0, 40.0),), "labels": (1,)}
    single, three = runner.decode(
        [
            (embeddings[0], Prompt(**clicks, multimask_output=False)),  # type: ignore[arg-type]
            (embeddings[0], Prompt(**clicks)),  # type: ignore[arg-type]
        ]
    )
    best = three.iou.argmax()
    assert single.iou[0] == three.iou[best]
    np.testing.assert_array_equal(single.logits[0], three.logits[best])


def test_fingerprint_tells_weights_and_precision_apart(runner: Sam2Runner) -> None:
    other = Sam2Runner(runner.model, name="small", weights_fingerprint="other")
    half = make_runner(replace(TINY, image_size=256), dtype=torch.bfloat16)
    again = make_runner(replace(TINY, image_size=256))
    assert len({runner.fingerprint, other.fingerprint, half.fingerprint}) == 3
    assert again.fingerprint == runner.fingerprint
    assert re.fullmatch("[0-9a-f]{64}", runner.fingerprint)


def test_every_variant_can_be_built() -> None:
    sizes = {}
    for name, config in VARIANTS.items():
        with torch.device("meta"):
            sizes[name] = sum(p.numel() for p in Sam2(config).parameters()) // 10**6
    assert sizes.pop(BUILTIN) == 10
    assert list(sizes) == [
        f"{release}_hiera_{size}"
        for release in ("sam2.1", "sam2")
        for size in ("tiny", "small", "base_plus", "large")
    ]
    assert [sizes[f"sam2.1_hiera_{size}"] for size in ("tiny", "small", "base_plus", "large")] == [
        31,
        38,
        73,
        216,
    ]


def test_untrained_weights_show_in_the_name() -> None:
    loaded = load_runner("sam2.1_hiera_tiny", checkpoint=None, device="cpu", dtype="bfloat16")
    assert loaded.name == "sam2.1_hiera_tiny (untrained)"
    assert (loaded.device_name, loaded.dtype_name, loaded.mask_size) == ("cpu", "bfloat16", (256, 256))


def test_auto_is_what_the_machine_has() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_dtype("float16", CPU) == torch.float16


@pytest.mark.parametrize("name", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"device '{name}' cannot be used here")):
        resolve_device(name)
