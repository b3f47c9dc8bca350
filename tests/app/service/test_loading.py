"""Loading the model: each setting arrives where it is used."""

import logging
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.service.loading import cache_limits, choose_variant, load_segmenter, locate_weights
from app.settings import Settings
from app.storage.opening import CacheLimits
from model.checkpoints.download import BUILTIN_PATH
from model.errors import CheckpointError, WeightsUnavailable
from model.gpu.options import GpuOptions
from tests.bench.weights import transformers_state
from tests.fakes import FakeSegmenter, serving
from tests.model.checkpoints.weight_files import hollow, image_half, released_shapes


@pytest.mark.parametrize(("video", "track_mib"), [("auto", 77), ("off", 0)])
def test_what_is_set_for_a_gpu_reaches_it(
    video: Literal["auto", "off"], track_mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def load_runner(variant: str, **options: Any) -> FakeSegmenter:
        asked.update(options, variant=variant)
        return FakeSegmenter()

    monkeypatch.setattr("app.service.loading.load_runner", load_runner)
    monkeypatch.setattr("app.service.loading.whole_cpus", lambda: 3)
    load_segmenter(
        Settings(
            checkpoint="untrained",
            model="sam2.1_hiera_large",
            device="cpu",
            dtype="bfloat16",
            device_cache_mib=100,
            batch_images=3,
            batch_prompts=7,
            compile="off",
            threads=5,
            video=video,
            track_memory_mib=77,
        )
    )
    assert asked == {
        "variant": "sam2.1_hiera_large",
        "checkpoint": None,
        "device": "cpu",
        "dtype": "bfloat16",
        "threads": 5,
        "cpus": 3,
        "gpu_options": GpuOptions(
            cache_mib=100, batch_images=3, batch_prompts=7, compile="off", track_mib=track_mib
        ),
    }


GIB = 2**30


@pytest.mark.parametrize(
    ("on_gpu", "device", "host", "limits"),
    [
        (None, "auto", "auto", CacheLimits(2 * GIB, host_bytes=0)),
        (None, 100, "auto", CacheLimits(100 * 2**20, host_bytes=0)),
        (5 * GIB, "auto", "auto", CacheLimits(5 * GIB, host_bytes=2 * GIB)),
        (5 * GIB, "auto", 0, CacheLimits(5 * GIB, host_bytes=0)),
        (3 * GIB, 3072, 7, CacheLimits(3 * GIB, host_bytes=7 * 2**20)),
    ],
)
def test_caches_follow_the_memory_unless_their_size_is_said(
    on_gpu: int | None, device: Any, host: Any, limits: CacheLimits
) -> None:
    """A container of 1 GiB gets a cache of 256 MiB, not the 4 GiB that would end it."""
    segmenter = FakeSegmenter()
    segmenter.cache_bytes, segmenter.shares_host_memory = on_gpu, on_gpu is None
    settings = Settings(device_cache_mib=device, host_cache_mib=host)
    assert cache_limits(settings, segmenter, memory_bytes=8 * GIB) == limits


async def test_the_size_that_a_gpu_found_is_told() -> None:
    segmenter = FakeSegmenter()
    segmenter.cache_bytes, segmenter.shares_host_memory = 77 * 2**20, False
    async with serving(Settings(workers=2, host_cache_mib=3), segmenter) as served:
        limits = (await served.client.get("/model")).json()["limits"]
    assert (limits["device_cache_mib"], limits["host_cache_mib"]) == (77, 3)
    assert served.service.store.tiers.device.capacity_bytes == 77 * 2**20


@pytest.fixture
def base_plus(tmp_path: Path) -> Path:
    path = tmp_path / "mine.pt"
    torch.save({"model": hollow(released_shapes("sam2_hiera_base_plus")), "epoch": 3}, path)
    return path


@pytest.fixture
def image_half_of_tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pt"
    torch.save(transformers_state(hollow(image_half(released_shapes("sam2.1_hiera_tiny")))), path)
    return path


def test_weights_say_which_model_they_are_of(base_plus: Path) -> None:
    assert choose_variant(Settings(checkpoint=str(base_plus))) == "sam2_hiera_base_plus"


def test_of_two_releases_the_newer_is_served_and_both_are_told(
    image_half_of_tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert choose_variant(Settings(checkpoint=str(image_half_of_tiny))) == "sam2.1_hiera_tiny"
    assert "sam2.1_hiera_tiny or sam2_hiera_tiny, and is served as sam2.1_hiera_tiny" in caplog.text


def test_a_model_that_is_set_is_kept(
    base_plus: Path, image_half_of_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM2_MODEL", "sam2_hiera_tiny")
    assert choose_variant(Settings(checkpoint=str(image_half_of_tiny))) == "sam2_hiera_tiny"
    monkeypatch.setenv("SAM2_MODEL", "builtin")
    settings = Settings(checkpoint=str(base_plus), device="cpu")
    with pytest.raises(
        CheckpointError, match=r"does not fit builtin, which SAM2_MODEL says.*hiera_base_plus"
    ):
        load_segmenter(settings)


def test_weights_of_nothing_known_are_left_to_the_loader(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"no image encoder of SAM 2.*none of the released"):
        load_segmenter(Settings(checkpoint=str(tmp_path / "other.pt"), device="cpu"))


def test_a_folder_of_transformers_is_served(tmp_path: Path) -> None:
    weights = {name: x.clone() for name, x in transformers_state(load_file(BUILTIN_PATH)).items()}
    save_file(weights, tmp_path / "model.safetensors")
    settings = Settings(checkpoint=str(tmp_path), device="cpu", dtype="float32")
    assert locate_weights(settings) == tmp_path
    segmenter = load_segmenter(settings)
    assert (segmenter.name, segmenter.variant) == ("builtin", "builtin")
    assert segmenter.fingerprint == load_segmenter(Settings(device="cpu", dtype="float32")).fingerprint


def test_random_weights_say_so_and_keep_their_variant() -> None:
    segmenter = load_segmenter(Settings(checkpoint="untrained", device="cpu"))
    assert (segmenter.name, segmenter.variant) == ("builtin (untrained)", "builtin")


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"names .*absent: No such file or directory"):
        locate_weights(Settings(checkpoint=str(tmp_path / "absent")))


def test_weights_in_a_folder_that_is_closed_to_this_user_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    settings = Settings(checkpoint=str(tmp_path / "tiny.pt"))
    monkeypatch.setattr(Path, "stat", closed)  # root may look everywhere
    with pytest.raises(WeightsUnavailable, match=r"names .*tiny\.pt: Permission denied"):
        locate_weights(settings)
