"""Tests the benchmark itself: turns, percentiles, ratios, the report, the load generator. Needs no peers."""

import asyncio
import gc
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from model.network.config import VARIANTS
from model.network.sam2 import Sam2
from tests.bench import load, machine, report
from tests.bench.agreement import best_iou
from tests.bench.discs import draw_discs
from tests.bench.load import Load, Stream, UnexpectedReply
from tests.bench.report import (
    MASKS_FOUND,
    ONNX,
    OURS,
    OURS_FOUND,
    THEIRS_FOUND,
    TRANSFORMERS,
    Row,
    Target,
    timed_rows,
)
from tests.bench.timing import Effort, percentile, summarise, take_turns
from tests.bench.weights import VARIANT, plain_model, transformers_state
from tests.golden.recipe import weight
from tests.local_server import local_server, port_of


def test_sides_take_turns_and_each_leads_equally_often() -> None:
    calls: list[str] = []
    sides = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = take_turns(sides, Effort(0.0, least=3))
    warm_up, rounds = calls[:3], ["".join(calls[i : i + 3]) for i in range(3, 12, 3)]
    assert warm_up == ["a", "b", "c"]
    assert rounds == ["abc", "bca", "cab"]
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_garbage_is_not_collected_while_the_clock_runs() -> None:
    seen: list[bool] = []
    take_turns({"a": lambda: seen.append(gc.isenabled())}, Effort(0.0, least=2))
    assert seen[1:] == [False, False]
    assert gc.isenabled()


def test_rounds_stop_at_the_most_allowed() -> None:
    assert len(take_turns({"a": lambda: None}, Effort(60.0, least=1, most=4))["a"]) == 4


def test_statistics() -> None:
    seconds = [i / 1000 for i in range(1, 101)]
    assert percentile(seconds, 95) == pytest.approx(0.095)
    assert percentile(seconds, 100) == pytest.approx(0.1)
    assert percentile([0.5], 99) == 0.5
    summary = summarise(seconds)
    assert (summary.n, summary.median_ms, summary.p95_ms) == (100, pytest.approx(50.5), pytest.approx(95))
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_our_medians_are_divided_by_the_peers_and_never_the_other_way_round() -> None:
    rows = timed_rows(
        "click", "with RLE", {OURS[0]: [0.02], OURS[1]: [0.01], ONNX: [0.04], TRANSFORMERS: [0.1]}
    )
    ratios = {row.side: {k: v for k, v in row.values.items() if k.startswith("vs")} for row in rows}
    assert ratios[OURS[0]] == {f"vs {ONNX}": pytest.approx(0.5), f"vs {TRANSFORMERS}": pytest.approx(0.2)}
    assert ratios[OURS[1]] == {f"vs {ONNX}": pytest.approx(0.25), f"vs {TRANSFORMERS}": pytest.approx(0.1)}
    assert ratios[ONNX] == ratios[TRANSFORMERS] == {}


def test_the_report_says_which_targets_are_missed(tmp_path: Path) -> None:
    rows = timed_rows("click", "with RLE", {OURS[0]: [0.02], ONNX: [0.04], TRANSFORMERS: [0.05]})
    rows.append(Row("http", "cached upload of a 1 MB JPEG", "ours", {"n": 3, "p50_ms": 4.0}))
    report.write(rows, machine={"commit": "abc"}, folder=tmp_path)
    text = (tmp_path / "bench.md").read_text()
    assert "| commit | abc |" in text
    assert "| with RLE | ours float32 | 1 | 20.0 | 20.0 | 0.500 | 0.400 |" in text
    assert "| click: with RLE | ours float32 | vs ONNX Runtime | <= 0.65 | 0.500 | met |" in text
    assert "| click: with RLE | ours float32 | vs transformers | <= 0.33 | 0.400 | missed |" in text
    assert "| http: cached upload of a 1 MB JPEG | ours | p50_ms | <= 5.0 | 4.00 | met |" in text
    content = json.loads((tmp_path / "bench.json").read_text())
    assert content["machine"] == {"commit": "abc"}
    assert content["rows"][-1]["values"] == {"n": 3, "p50_ms": 4.0}


def test_a_side_that_finds_other_masks_misses_a_target_and_keeps_its_row(tmp_path: Path) -> None:
    masks = np.zeros((3, 8, 8), np.uint8)
    masks[0, :4], masks[1, 4:], masks[2, 4:, 4:] = 1, 1, 1
    top, bottom, corner = (coco.encode(np.asfortranarray(mask)) for mask in masks)
    rows = [
        Row("everything", MASKS_FOUND, side, best_iou(found, [top, bottom]))
        for side, found in zip(OURS, ([bottom, top], [corner]), strict=True)
    ]
    report.write(rows, machine={}, folder=tmp_path)
    text = (tmp_path / "bench.md").read_text()
    assert "| masks found | ours bfloat16 | 1 | 0.250 | 0.500 |" in text
    for side, of_theirs, of_ours, verdict in (
        (OURS[0], "1.00", "1.00", "met"),
        (OURS[1], "0.250", "0.500", "missed"),
    ):
        for value, measured in ((THEIRS_FOUND, of_theirs), (OURS_FOUND, of_ours)):
            assert f"| everything: masks found | {side} | {value} | >= 0.9 | {measured} | {verdict} |" in text


def test_a_side_that_finds_nothing_agrees_with_nothing() -> None:
    mask = coco.encode(np.asfortranarray(np.ones((4, 4), np.uint8)))
    for ours, theirs in (([], [mask]), ([mask], [])):
        assert best_iou(ours, theirs) == {"masks": len(ours), THEIRS_FOUND: 0, OURS_FOUND: 0}


def test_another_benchmark_has_targets_of_its_own(tmp_path: Path) -> None:
    rows = [
        Row("decode", "one click", "ours", {"p50_ms": 0.5}),
        Row("encode", "rate", "ours", {"per_s": 90.0}),
    ]
    targets = (
        Target("decode", "one click", "ours", "p50_ms", at_most=1.0),
        Target("encode", "rate", "ours", "per_s", at_least=100.0),
    )
    report.write(rows, machine={}, folder=tmp_path, name="gpu", targets=targets)
    text = (tmp_path / "gpu.md").read_text()
    assert "| decode: one click | ours | p50_ms | <= 1.0 | 0.500 | met |" in text
    assert "| encode: rate | ours | per_s | >= 100.0 | 90.0 | missed |" in text


def test_transformers_gets_every_weight_once_and_under_its_names() -> None:
    with torch.device("meta"):
        state = Sam2(VARIANTS[VARIANT]).state_dict()
    converted = transformers_state(state)
    # Four point embeddings become one table, and the frequencies appear twice.
    assert len(converted) == len(state) - 4 + 1 + 1
    assert converted["vision_encoder.backbone.blocks.0.mlp.proj_out.weight"].shape == (96, 384)
    assert converted["mask_decoder.iou_prediction_head.layers.0.bias"].shape == (256,)
    assert converted["mask_decoder.transformer.layers.1.cross_attn_image_to_token.o_proj.weight"].shape == (
        256,
        128,
    )
    assert converted["prompt_encoder.point_embed.weight"].shape == (4, 256)


def test_the_benchs_weights_draw_an_area_around_the_click() -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Sam2(VARIANTS[VARIANT]).state_dict().items()}
    state = {
        name: torch.zeros(shape)
        if name.startswith("image_encoder.")
        else torch.from_numpy(weight(name, shape))
        for name, shape in shapes.items()
    }
    draw_discs(state, variant=VARIANT)
    model = plain_model(state)
    with torch.inference_mode():
        output = model.decode(
            torch.zeros(1, 256, 64, 64),
            torch.zeros(1, 32, 256, 256),
            torch.zeros(1, 64, 128, 128),
            coords=torch.tensor([[[256.0, 768.0], [0.0, 0.0]]]),
            labels=torch.tensor([[1, -1]]),
            mask_logits=torch.zeros(1, 1, 256, 256),
            has_mask=torch.tensor([False]),
        )
    for mask in output.logits[0] > 0:
        assert mask[192, 64]  # the click
        assert not mask[10, 250]  # the far corner
        assert 0.02 < mask.float().mean() < 0.7
        # An area, not noise: neighbours differ only along an outline.
        assert (mask[:, 1:] != mask[:, :-1]).float().mean() < 0.05


def test_clients_keep_their_connections_and_send_their_bodies_in_turn() -> None:
    server = FakeServer(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    measured = asyncio.run(server.loaded(seconds=0.05, clients=3))
    assert server.connections == 3
    assert len(measured["click"].latencies) == len(server.bodies) >= 3
    assert server.bodies.count(b"first") >= server.bodies.count(b"second") > 0
    assert measured["click"].per_second == pytest.approx(len(server.bodies) / measured["click"].seconds)
    assert 0 < min(measured["click"].latencies) < measured["click"].seconds


def test_a_reply_that_is_not_200_ends_the_load() -> None:
    server = FakeServer(b"HTTP/1.1 503 Busy\r\ncontent-length: 10\r\n\r\noverloaded")
    with pytest.raises(UnexpectedReply, match="503 overloaded"):
        asyncio.run(server.loaded(seconds=0.05, clients=1))


class FakeServer:
    """Sends the same reply to every POST, and records the requests."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.connections = 0
        self.bodies: list[bytes] = []

    async def loaded(self, *, seconds: float, clients: int) -> dict[str, load.Measured]:
        async with local_server(self._serve) as server:
            stream = Stream("click", "/decode", "application/json", (b"first", b"second"))
            return await load.drive(Load(port_of(server), seconds, (stream,) * clients))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError):  # the client closes the connection
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                writer.write(self.reply)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("fast", "names"), [(torch.float32, ("float32",)), (torch.bfloat16, ("float32", "bfloat16"))]
)
def test_a_precision_that_the_cpu_emulates_is_left_out(
    fast: torch.dtype, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "resolve_dtype", lambda *_: fast)
    assert machine.fast_precisions() == names
