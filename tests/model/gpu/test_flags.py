"""Torch's flags for a GPU, and the option that a CPU has no use for."""

import pytest
import torch

from model.gpu.cuda import be_faithful, choose_attention
from model.gpu.options import GpuOptions
from model.network.config import VARIANTS
from model.runner import load_runner
from tests.model.gpu.small_runners import SMALL


def test_float32_is_float32() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = [
        (matmul, "allow_tf32"),
        (matmul, "allow_bf16_reduced_precision_reduction"),
        (matmul, "allow_fp16_reduced_precision_reduction"),
        (cudnn, "allow_tf32"),
        (cudnn, "benchmark"),
    ]
    before = [getattr(place, name) for place, name in flags]
    try:
        for place, name in flags:
            setattr(place, name, True)
        be_faithful()
        assert [getattr(place, name) for place, name in flags] == [False] * len(flags)
    finally:
        for (place, name), value in zip(flags, before, strict=True):
            setattr(place, name, value)


def test_no_plan_is_built_for_a_new_shape_of_attention() -> None:
    """Torch prefers cuDNN's kernels on Hopper; a plan for each takes up to a second, and none is ever dropped."""
    backends = torch.backends.cuda
    before = backends.cudnn_sdp_enabled()
    try:
        backends.enable_cudnn_sdp(True)
        choose_attention()
        assert not backends.cudnn_sdp_enabled()
        assert backends.flash_sdp_enabled()
        assert backends.mem_efficient_sdp_enabled()
        assert backends.math_sdp_enabled()
    finally:
        backends.enable_cudnn_sdp(before)


def test_a_cpu_says_that_it_compiles_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "small", SMALL)
    options = GpuOptions(compile="on")
    load_runner("small", checkpoint=None, device="cpu", dtype="float32", gpu_options=options)
    assert "SAM2_COMPILE=on is for GPUs; on cpu nothing is compiled." in caplog.text
