"""Precision on a GPU: what stays exact, and what cannot overflow."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.checkpoints.parameters import untrained_parameters
from model.network.config import VARIANTS
from model.network.layers import LayerNorm2d
from model.network.mask_decoder import DecoderOutput
from model.network.sam2 import Sam2
from model.runner import Sam2Runner, load_runner
from model.types import Pixels
from tests.model.gpu.host_gpu import HostGpu
from tests.model.gpu.small_runners import OPTIONS, SMALL, decode_one, engine_of, make_gpu_runner
from tests.model.test_runner import assert_equal

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_encoder_of_a_model_that_asks_for_it_stays_exact(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "small", replace(SMALL, exact_encoder=True))
    loaded = load_runner("small", checkpoint=None, device="cpu", dtype=dtype)
    assert loaded.model.encoder_dtype == torch.float32
    assert {p.dtype for p in loaded.model.image_encoder.parameters()} == {torch.float32}
    assert loaded.dtype_name == dtype
    assert str(next(loaded.model.sam_mask_decoder.parameters()).dtype) == f"torch.{dtype}"


def test_a_gpu_gives_an_exact_encoder_exact_pictures(pictures: list[Pixels], plain: Sam2Runner) -> None:
    """Half of what bfloat16 changes in a mask comes from the encoder."""
    with torch.device("meta"):
        model = Sam2(SMALL)
    untrained_parameters(model, device=HostGpu.device, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if not name.startswith("image_encoder."):
            parameter.data = parameter.data.to(torch.bfloat16)
    mixed = Sam2Runner(model, name="mixed", weights_fingerprint="mixed", gpu=HostGpu(), gpu_options=OPTIONS)
    mixed.warm_up()
    encoding, arena = engine_of(mixed)._encoding, engine_of(mixed).arena
    assert (encoding._images.dtype, encoding._shrunk.dtype) == (torch.float32, torch.float32)
    assert arena.image_rows.dtype == torch.bfloat16
    assert mixed.cache_bytes == OPTIONS.cache_mib * 2**20  # type: ignore[operator]
    (embedding,), (exact,) = mixed.encode(pictures[:1]), plain.encode(pictures[:1])
    error = (embedding.image_rows.float() - exact.image_rows).norm() / exact.image_rows.norm()
    assert error < 0.004  # rounded once
    assert_equal(decode_one(mixed, embedding), decode_one(plain, exact), tolerance=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_values_do_not_overflow_a_layer_norm(dtype: torch.dtype) -> None:
    """In float16 the square of 256 is infinite, and a number over infinity is 0: wrong without a word."""
    norm = LayerNorm2d(8).to(dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (1000 * torch.randn(2, 8, 5, 5)).to(dtype)
    weight, bias = norm.weight.float(), norm.bias.float()
    expected = F.layer_norm(x.float().permute(0, 2, 3, 1), (8,), weight, bias, norm.eps).permute(0, 3, 1, 2)
    assert norm(x).dtype == dtype
    torch.testing.assert_close(norm(x).float(), expected, rtol=0.01, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_positions_are_resized_exactly_and_rounded_once(dtype: torch.dtype) -> None:
    exact, half = make_gpu_runner(), make_gpu_runner(dtype=dtype)
    positions = [runner.model.image_encoder.trunk.position_embedding(32, 32) for runner in (exact, half)]
    assert torch.equal(positions[1], positions[0].to(dtype))
    resized = half.model.image_encoder.trunk._resized_positions
    assert resized is not None
    assert torch.equal(resized, positions[1])


def test_a_network_that_overflows_is_told_from_a_graph_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_gpu_runner(dtype=torch.float16)
    decoder = engine_of(runner)._decoding._decoder
    network = decoder.network

    def overflowing(*arguments: Any) -> DecoderOutput:
        output = network(*arguments)
        return output._replace(logits=output.logits * torch.inf)

    monkeypatch.setattr(decoder, "network", overflowing)
    runner.warm_up()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert all("overflows in float16 on random input" in error for error in errors)
    assert any(error.startswith("The decoder for 1 x 2 tokens overflows") for error in errors)
    assert "SAM2_DTYPE=float32" in errors[0]


def test_noise_for_trials_comes_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a capture that failed, torch before 2.12 makes none on the device: all further captures failed."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Offset increment outside graph capture encountered unexpectedly")

    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu)
    for name in ("normal_", "uniform_", "random_"):
        monkeypatch.setattr(torch.Tensor, name, fail)
    runner.warm_up()
    assert gpu.pictures.captures == 2
    encoding = engine_of(runner)._encoding
    with torch.inference_mode(), gpu.pictures.current():
        encoding._fill_at_random([0, 1])
    images = encoding._images
    assert images.isfinite().all()
    assert not np.array_equal(images[0], images[1])
