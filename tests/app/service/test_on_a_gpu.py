"""The service on a GPU made of the CPU: uploads and clicks of many at once, and memory that runs out."""

import asyncio
import threading
from typing import Any

import httpx
import pytest
import torch

from app.settings import Settings
from model.checkpoints.parameters import untrained_parameters
from model.errors import DeviceOutOfMemory
from model.gpu.encoding import Encoding
from model.gpu.options import GpuOptions
from model.network.sam2 import Sam2
from model.runner import Sam2Runner
from tests.fakes import FakeSegmenter, Served, error, picture, serving
from tests.model.gpu.host_gpu import HostGpu
from tests.model.gpu.small_runners import SMALL


class OnGpu(Sam2Runner):
    """Says that its embeddings are not in host memory."""

    shares_host_memory = False
    gate = threading.Event()  # as the fake has it


def ious(body: dict[str, Any]) -> list[float]:
    """Differ from picture to picture, and from click to click."""
    (prediction,) = body["predictions"]
    return [mask["iou"] for mask in prediction["masks"]]


@pytest.fixture
def gpu() -> HostGpu:
    return HostGpu()


@pytest.fixture
def runner(gpu: HostGpu) -> Sam2Runner:
    with torch.device("meta"):
        model = Sam2(SMALL)
    untrained_parameters(model, device=HostGpu.device, dtype=torch.float32)
    options = GpuOptions(cache_mib=1, batch_images=2, batch_prompts=4)
    return OnGpu(model, name="gpu", weights_fingerprint="gpu", gpu=gpu, gpu_options=options)


async def test_uploads_and_clicks_of_many_at_once_are_answered_as_one_by_one(
    runner: Sam2Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen pictures in a cache for four: most clicks bring an embedding back from the host."""
    expected: list[int] = []
    expect = runner.expect
    monkeypatch.setattr(runner, "expect", lambda images: (expected.append(len(images)), expect(images)))
    files = [picture(width=60 + shade, shade=shade) for shade in range(16)]
    names = [f"p{number}" for number in range(len(files))]
    async with serving(Settings(workers=2, batch_images=2, batch_prompts=4), runner) as served:  # type: ignore[arg-type]
        together = await asyncio.gather(
            *(served.embed(data, name) for data, name in zip(files, names, strict=True))
        )
        assert [reply.status_code for reply in together] == [200] * 16
        clicks = await asyncio.gather(*(served.click(name, x=9) for name in names * 2))
        assert [reply.status_code for reply in clicks] == [200] * 32
        assert max(expected) > 0
        assert len({tuple(ious(reply.json())) for reply in clicks}) >= 16
        for number, (data, name) in enumerate(zip(files, names, strict=True)):
            assert (await served.client.delete(f"/images/{name}")).status_code < 300
            await served.embed(data, name)
            alone = (await served.click(name, x=9)).json()
            for reply in (clicks[number].json(), clicks[number + 16].json()):
                assert ious(reply) == pytest.approx(ious(alone), abs=1e-4)


async def test_a_gpu_without_memory_refuses_and_goes_on(
    runner: Sam2Runner, gpu: HostGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(Settings(workers=2), runner) as served:  # type: ignore[arg-type]
        await served.embed(picture(), "truck")

        def full(*_: object) -> None:
            raise RuntimeError("CUDA error: out of memory")

        with monkeypatch.context() as patch:
            patch.setattr(Encoding, "_put", full)  # not even room for a picture that the host has shrunk
            assert error(await served.embed(picture(shade=1))) == (503, "overloaded")
        assert (await served.embed(picture(shade=1))).status_code == 200
        assert (await served.client.get("/images/truck")).json()["tiers"][0] == "device"
        assert gpu.trims > 0


async def test_a_picture_that_a_gpu_has_no_memory_for_is_shrunk_by_the_host(
    runner: Sam2Runner, gpu: HostGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(Settings(workers=2), runner) as served:  # type: ignore[arg-type]

        def full(*_: object) -> None:
            raise RuntimeError("CUDA error: out of memory")

        monkeypatch.setattr(gpu.uploads, "upload", full)
        await served.embed(picture(), "truck")
        assert (await served.click("truck")).status_code == 200


class Crowded(FakeSegmenter):
    """A GPU with memory for a picture beside what `most` bytes of tracks take."""

    shares_host_memory = False
    most = 0
    service: Any = None

    def encode(self, images: Any, *, between: Any = lambda: None) -> Any:
        """Encode as the fake does, if it fits."""
        if self.service is not None and self.service.tracks._live.used_bytes > self.most:
            raise DeviceOutOfMemory("no room")
        return super().encode(images, between=between)


async def test_idle_tracks_give_way_where_a_gpu_is_out_of_memory() -> None:
    """The one used longest ago first, and no more than it takes. Its prompts stay, and make it again."""
    segmenter = Crowded()
    async with serving(Settings(workers=2), segmenter) as served:
        await served.embed(picture(), "truck")
        for track in ("old", "new"):
            await served.post("/tracks", {"frames": ["truck"], "track_id": track})
            assert (await prompted(served, track, 1)).status_code == 200
        segmenter.service, segmenter.most = served.service, segmenter.frame_bytes
        assert (await served.embed(picture(shade=1), "car")).status_code == 200
        states = {state.track_id: state.nbytes for state in served.service.tracks._live._live}
        assert states == {"new": segmenter.frame_bytes}
        assert (await prompted(served, "old", 2)).status_code == 200
        assert [each["object"] for each in (await served.client.get("/tracks/old")).json()["objects"]] == [
            1,
            2,
        ]


async def test_a_track_that_is_worked_on_does_not_give_way() -> None:
    segmenter = Crowded()
    async with serving(Settings(workers=2), segmenter) as served:
        await served.embed(picture(), "truck")
        await served.post("/tracks", {"frames": ["truck"], "track_id": "walk"})
        assert (await prompted(served, "walk", 1)).status_code == 200
        segmenter.service = served.service
        (state,) = served.service.tracks._live._live
        async with state.lock:
            assert error(await served.embed(picture(shade=1), "car")) == (503, "overloaded")
        assert served.service.tracks._live.used_bytes > 0


async def prompted(served: Served, track: str, number: int) -> httpx.Response:
    body = {"frame": 0, "object": number, "point_coords": [[30, 20]], "point_labels": [1]}
    return await served.post(f"/tracks/{track}/prompts", body)


async def test_tracks_keep_to_what_a_gpu_has_left_for_them() -> None:
    """More would be taken of the memory that clicks and pictures need."""
    segmenter = FakeSegmenter()
    mask = segmenter.frame_bytes
    segmenter.most_bytes = 2 * mask
    async with serving(Settings(workers=2), segmenter) as served:
        await served.embed(picture(), "truck")
        for track in ("a", "b", "c"):
            await served.post("/tracks", {"frames": ["truck"], "track_id": track})
            assert (await prompted(served, track, 1)).status_code == 200
        assert served.service.tracks._live.used_bytes == 2 * mask
        assert (await prompted(served, "c", 2)).status_code == 200
        assert error(refused := await prompted(served, "c", 3)) == (503, "overloaded")
        assert "at most a quarter" in refused.text
        assert (await served.client.get("/model")).json()["tracks"]["memory_mib"] == 0
