"""The Grafana dashboard and the Prometheus example use only metrics that the server exports."""

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from tests import fakes
from tests.fakes import picture, serving
from tests.promql import PromqlError, parse
from tests.server import ROOT

BOARD = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
OF_PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus adds to everything it scrapes."""


@dataclass(frozen=True)
class Exported:
    """One metric name on /metrics."""

    only_grows: bool
    labels: frozenset[str]
    values: frozenset[tuple[str, str]]
    """Of labels, each with the label's name."""


@pytest.fixture(scope="module")
def exported() -> dict[str, Exported]:
    """Every name that a server exports after it has answered some requests and rejected one; a Front has more."""

    async def story() -> str:
        async with serving() as served:
            await served.embed(picture(), "truck")
            await served.click("truck")
            await served.click("unknown")
            metrics = served.service.metrics
            metrics.bucket_failures.labels("GetObject").inc()  # which have nothing to say without a bucket
            metrics.bucket_seconds.labels("GetObject").observe(0.1)
            return (await served.client.get("/metrics")).text

    found: dict[str, Exported] = {}
    with pytest.MonkeyPatch.context() as patch:
        for is_front in (False, True):
            patch.setattr(fakes, "devices_are_elsewhere", is_front)
            for family in text_string_to_metric_families(asyncio.run(story())):
                _take(family, found)
    return found


def _take(family: Metric, found: dict[str, Exported]) -> None:
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        grows = family.type in ("counter", "histogram")
        known = found.get(sample.name, Exported(grows, frozenset(), frozenset()))
        labels, values = known.labels | sample.labels.keys(), known.values | sample.labels.items()
        found[sample.name] = Exported(grows, labels, values)


TARGETS = [
    pytest.param(target, id=f"{panel['title']} {target['refId']}")
    for panel in BOARD["panels"]
    for target in panel["targets"]
]


@pytest.mark.parametrize("target", TARGETS)
def test_a_panel_asks_for_what_is_exported(target: dict[str, str], exported: dict[str, Exported]) -> None:
    expression = parse(target["expr"])
    assert expression.selectors
    kept: set[str] = set()
    for selector in expression.selectors:
        assert selector.metric in exported
        known = exported[selector.metric].labels | OF_PROMETHEUS
        assert set(selector.matched) <= known
        assert set(selector.matched) >= OF_PROMETHEUS, "the dashboard's variables select the servers"
        for names in selector.grouped:
            assert set(names) <= known
        wants_rate = exported[selector.metric].only_grows
        assert selector.ranged is wants_rate, "counters must be used as a rate, and other metrics must not"
        kept |= known
    in_legend = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"]))
    assert in_legend <= (kept if expression.labels is None else expression.labels)


COUNTED_BY_FRONTS = {"sam2_device_calls_total", "sam2_pictures_ahead", "sam2_embedded_ahead_total"}
SHARED = {"sam2_tracks", "sam2_video_bytes"}
"""What each of several servers that share a folder or a database counts in full."""


@pytest.mark.parametrize("target", TARGETS)
def test_what_several_servers_tell_alike_is_counted_once(
    target: dict[str, str], exported: dict[str, Exported]
) -> None:
    """All Fronts tell the metrics of all Devices."""
    of_parts = (
        " / " in target["expr"] or "histogram_quantile" in target["expr"]
    )  # what counts twice cancels out
    for selector in parse(target["expr"]).selectors:
        if selector.metric in SHARED or 'tier="disk"' in target["expr"]:
            assert selector.aggregated == ("max",)
        elif (
            "device" in exported[selector.metric].labels
            and selector.metric not in COUNTED_BY_FRONTS
            and "sum" in selector.aggregated
            and "instance" not in selector.grouped[-1]
            and not of_parts
        ):
            assert selector.aggregated == ("max", "sum")
            assert "device" in selector.matched
            assert {"device", "instance"} & set(selector.grouped[0])


def test_a_device_is_busy_with_the_batches_of_every_queue(exported: dict[str, Exported]) -> None:
    panels = [panel for panel in BOARD["panels"] if panel["title"].startswith("Device busy")]
    assert len(panels) == 2
    for panel in panels:
        (target,) = panel["targets"]
        named = re.search(r'stage=~"([^"]*)"', target["expr"])[1].split("|")
        queues = {value for label, value in exported["sam2_batch_size_count"].values if label == "queue"}
        assert {each.removesuffix("_batch") for each in named} == queues


def test_every_figure_of_ours_has_a_panel(exported: dict[str, Exported]) -> None:
    shown = {s.metric for t in TARGETS for s in parse(t.values[0]["expr"]).selectors}  # type: ignore[index, call-overload]
    stems = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    ours = {name for name in exported if name.startswith("sam2_")}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours} <= stems


def test_the_board_can_be_imported_anywhere() -> None:
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(BOARD["panels"])))
    assert used == set(variables)
    sources = [panel["datasource"] for panel in BOARD["panels"]]
    sources += [target["datasource"] for panel in BOARD["panels"] for target in panel["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert "__inputs" not in BOARD
    assert "id" not in BOARD  # the id in somebody's own Grafana


def test_panels_have_their_own_place_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert max(column for column, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["title"]
        assert panel["description"].endswith(".")
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


async def test_prometheus_asks_where_the_server_answers() -> None:
    configuration: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
    (job,) = configuration["scrape_configs"]
    settings = Settings()
    assert job["static_configs"][0]["targets"] == [f"{settings.host}:{settings.port}"]
    async with serving() as served:
        assert (await served.client.get(job["metrics_path"])).status_code == 200


@pytest.mark.parametrize(
    ("text", "metrics", "labels"),
    [
        ('up{job="a", x!~"b|c"}', ["up"], None),
        ("rate(a_total[5m])", ["a_total"], None),
        ('sum by (x, y) (rate(a_total{x="\\""}[$__rate_interval]))', ["a_total"], {"x", "y"}),
        ("sum(rate(a_total[5m])) by (x) / sum by (x) (b)", ["a_total", "b"], {"x"}),
        ("histogram_quantile(0.9, sum by (le, q) (rate(a_bucket[1h]))) * 1000", ["a_bucket"], {"q"}),
        ("time() - (a + b) * 2 > 1", ["a", "b"], None),
        ("max(sum by (x) (a))", ["a"], set()),
        ("sum by (x) (max by (x, y) (a) or max by (x, z) (b))", ["a", "b"], {"x"}),
        ("sum by (x, y) (a) or sum by (x) (b) * 2", ["a", "b"], {"x"}),
    ],
)
def test_promql_is_read(text: str, metrics: list[str], labels: set[str] | None) -> None:
    expression = parse(text)
    assert [selector.metric for selector in expression.selectors] == metrics
    assert expression.labels == labels


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rate(a_total)",
        "a_total[5m]",
        "sum(a_total[5m])",
        "rate(a_total[5 minutes])",
        "sum by (le) (a",
        "sum by le (a)",
        "a{x}",
        "a{x='y'}",
        'a{x=="y"}',
        "a b",
        "a +",
        "nosuch(a)",
        "histogram_quantile(95, sum by (le) (rate(a_bucket[5m])))",
        "histogram_quantile(0.95, sum by (q) (rate(a_bucket[5m])))",
        "sum by (x) (sum by (y) (a))",
        "sum by (x) (a) / sum by (y) (b)",
        "sum by (y) (max by (x, y) (a) or max by (x, z) (b))",
        "a or",
        "a # b",
    ],
)
def test_what_is_no_promql_is_refused(text: str) -> None:
    with pytest.raises(PromqlError):
        parse(text)
