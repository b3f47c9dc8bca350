"""Metrics of a Front: what it counts by device stays bounded, however many devices come and go."""

from prometheus_client import CollectorRegistry, generate_latest

from app.telemetry.cluster_metrics import ClusterMetrics


def test_devices_that_answered_last_are_told_and_others_forgotten() -> None:
    registry = CollectorRegistry()
    figures = ClusterMetrics(registry, most=2)
    for device in ("a", "b", "a", "c"):
        figures.count_call(device)
    lines = generate_latest(registry).decode().splitlines()
    assert [line for line in lines if line.startswith("sam2_device_calls_total{")] == [
        'sam2_device_calls_total{device="a"} 2.0',
        'sam2_device_calls_total{device="c"} 1.0',
    ]
