"""The Prometheus metrics: requests, queues, caches and the device, with few label values."""

import asyncio
import re
import time

import pytest

from app.telemetry.loop_lag import INTERVAL_S
from app.telemetry.metrics import Metrics, resident_bytes
from app.version import VERSION
from tests.fakes import FakeSegmenter, Served, picture, serving


async def figures(served: Served) -> dict[str, float]:
    """Return every sample of /metrics by name and labels."""
    text = (await served.client.get("/metrics")).text
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    }


async def test_figures_for_prometheus() -> None:
    async with serving() as served:
        await served.embed(picture(), "truck")
        await served.embed(picture(), "truck")
        await served.click("truck")
        await served.click("unknown")
        await served.client.get("/images/truck")
        await served.client.get("/nothing/here")
        response = await served.client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        figures = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if line[0] != "#")
        for name, value in {
            'sam2_requests_total{method="POST",route="/embed",status="200"}': 2,
            'sam2_requests_total{method="POST",route="/decode",status="200"}': 1,
            'sam2_requests_total{method="POST",route="/decode",status="404"}': 1,
            'sam2_requests_total{method="GET",route="/images/{image_id}",status="200"}': 1,
            'sam2_requests_total{method="GET",route="unknown",status="404"}': 1,
            'sam2_request_seconds_count{route="/embed"}': 2,
            'sam2_rejections_total{code="image_not_found"}': 1,
            'sam2_cache_lookups_total{outcome="hit"}': 1,
            'sam2_cache_lookups_total{outcome="miss"}': 1,
            'sam2_evictions_total{tier="device"}': 0,
            'sam2_cache_hits_total{tier="device"}': 2,
            'sam2_cache_images{tier="device"}': 1,
            'sam2_cache_bytes{tier="device"}': 4 * 4 * (8 + 4 * 2 + 4 * 4),
            'sam2_cache_bytes{tier="disk"}': 0,
            "sam2_waiting_prompts": 0,
            "sam2_waiting_images": 0,
            'sam2_batch_size_sum{queue="encode"}': 1,
            'sam2_batch_size_sum{queue="decode"}': 1,
            'sam2_stage_seconds_count{stage="decode_batch"}': 1,
            'sam2_stage_seconds_count{stage="device"}': 2,
        }.items():
            assert float(figures[name]) == value, name


async def test_what_runs_is_told_once_it_does() -> None:
    began = time.time()
    async with serving() as served:
        told = await figures(served)
        labels = f'device="imagined",dtype="float32",model="fake",version="{VERSION}"'
        assert told[f"sam2_build_info{{{labels}}}"] == 1
        assert told["sam2_ready"] == 1
        assert 0 < told["process_start_time_seconds"] <= began
    assert "sam2_build_info{" not in Metrics().render().decode()


async def test_bytes_are_counted_by_route() -> None:
    async with serving() as served:
        data = picture()
        reply = await served.embed(data, "truck")
        again = await served.embed(data, "truck")
        told = await figures(served)
        assert told['sam2_received_bytes_total{route="/embed"}'] == 2 * len(data)
        assert told['sam2_sent_bytes_total{route="/embed"}'] == len(reply.content) + len(again.content)


async def test_hits_are_counted_by_tier_from_nought() -> None:
    async with serving() as served:
        assert {
            name: value for name, value in (await figures(served)).items() if "cache_hits_total" in name
        } == {f'sam2_cache_hits_total{{tier="{tier}"}}': 0 for tier in ("device", "host", "disk")}
        await served.embed(picture(), "truck")
        await served.embed(picture(), "truck")
        await served.click("truck")
        await served.client.get("/images/truck/embedding")
        assert (await figures(served))['sam2_cache_hits_total{tier="device"}'] == 3


async def test_no_client_can_make_up_labels() -> None:
    async with serving() as served:
        before = set(await figures(served))
        for i in range(20):
            await served.client.request(f"M{i}", "/images")
            await served.client.get(f"/images/{i}")
            await served.client.get(f"/{i}")
            await served.client.get("/images", headers={"X-Request-ID": f"job-{i}"})
        names = set(await figures(served)) - before
        requests = {name for name in names if name.startswith("sam2_requests_total")}
        assert requests == {
            'sam2_requests_total{method="GET",route="/metrics",status="200"}',
            'sam2_requests_total{method="other",route="/images",status="405"}',
            'sam2_requests_total{method="GET",route="/images",status="200"}',
            'sam2_requests_total{method="GET",route="/images/{image_id}",status="404"}',
            'sam2_requests_total{method="GET",route="unknown",status="404"}',
        }
        routes = {found[1] for name in names if (found := re.search(r'route="([^"]*)"', name))}
        assert routes == {"/metrics", "/images", "/images/{image_id}", "unknown"}


@pytest.mark.parametrize("held", [None, 123])
async def test_memory_of_the_device_or_of_the_process(held: int | None) -> None:
    class OnDevice(FakeSegmenter):
        def memory_bytes(self) -> int | None:
            return held

    async with serving(segmenter=OnDevice()) as served:
        told = await figures(served)
        if held is None:
            assert told["sam2_device_memory_bytes"] == pytest.approx(resident_bytes(), rel=0.2)
            assert told["sam2_device_memory_bytes"] > 10 * 2**20
        else:
            assert told["sam2_device_memory_bytes"] == held


def test_times_from_one_millisecond_to_thirty_seconds_fall_into_buckets() -> None:
    metrics = Metrics()
    metrics.observe_stages({"device": 0.0009, "queue": 29.0})
    text = metrics.render().decode()
    assert 'sam2_stage_seconds_bucket{le="0.001",stage="device"} 1.0' in text
    assert 'sam2_stage_seconds_bucket{le="10.0",stage="queue"} 0.0' in text
    assert 'sam2_stage_seconds_bucket{le="30.0",stage="queue"} 1.0' in text


async def test_a_loop_that_stood_still_is_seen() -> None:
    async with serving() as served:
        await asyncio.sleep(2 * INTERVAL_S)
        time.sleep(0.3)  # noqa: ASYNC251  # the fault that is measured
        await asyncio.sleep(2 * INTERVAL_S)
        found = await figures(served)
        assert found["sam2_event_loop_lag_longest_seconds"] >= 0.3 - 2 * INTERVAL_S
        assert found["sam2_event_loop_lag_seconds_count"] >= 2
