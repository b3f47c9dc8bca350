"""Loading the model: each setting arrives where it is used."""

from typing import Any

import pytest

from app.service.loading import load_segmenter
from app.settings import Settings
from model.gpu.options import GpuOptions
from tests.fakes import FakeSegmenter


def test_what_is_set_for_a_gpu_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
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
        )
    )
    assert asked == {
        "variant": "sam2.1_hiera_large",
        "checkpoint": None,
        "device": "cpu",
        "dtype": "bfloat16",
        "threads": 5,
        "cpus": 3,
        "gpu_options": GpuOptions(cache_mib=100, batch_images=3, batch_prompts=7, compile="off"),
    }
