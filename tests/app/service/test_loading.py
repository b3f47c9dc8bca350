"""Loading the model: each setting arrives where it is used."""

from typing import Any

import pytest

from app.service.loading import cache_limits, load_segmenter
from app.settings import Settings
from app.storage.opening import CacheLimits
from model.gpu.options import GpuOptions
from tests.fakes import FakeSegmenter, serving


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
