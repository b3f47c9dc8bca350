"""Names of devices and precisions: what they stand for, what is refused, and what is said of a GPU left unused."""

from pathlib import Path

import pytest
import torch

from model import devices
from model.devices import resolve_device, resolve_dtype


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "xla", "cuda:", "cuda:-1", "cpu:0", "abacus", ""])
def test_devices_that_nobody_has_tried_are_refused(name: str) -> None:
    """Two threads on Apple's GPU end the process; others would fail at the first request."""
    with pytest.raises(
        ValueError, match=f"device {name!r} cannot be used here: only auto, cpu, cuda and cuda:N"
    ):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused_with_torchs_reason(name: str) -> None:
    with pytest.raises(ValueError, match=rf"device '{name}' cannot be used here: (?!only)."):
        resolve_device(name)


@pytest.mark.parametrize("fails", ["ones", "add_"])
def test_a_gpu_that_computes_nothing_is_refused_before_anything_is_loaded(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card for which torch has no kernels gives memory all the same; the first cast would fail, unexplained."""

    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError(
            "CUDA error: no kernel image is available for execution on the device\nCompile with TORCH_USE_CUDA"
        )

    monkeypatch.setattr(torch if fails == "ones" else torch.Tensor, fails, fail)
    expected = r"^device 'cpu' cannot be used here: CUDA error: no kernel image .* on the device$"
    with pytest.raises(ValueError, match=expected):
        resolve_device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "name", "expected"),
    [
        ([(7, 5)], "cuda", torch.float16),  # T4
        ([(8, 0)], "cuda:0", torch.bfloat16),  # A100
        ([(8, 6)], "cuda", torch.bfloat16),  # A10
        ([(9, 0)], "cuda", torch.bfloat16),  # H100
        ([(9, 0), (7, 5)], "cuda:1", torch.float16),
        ([(7, 5), (9, 0)], "cuda:1", torch.bfloat16),
    ],
)
def test_the_precision_is_what_that_very_card_computes_in(
    capabilities: list[tuple[int, int]],
    name: str,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch says that a T4 has bfloat16: it emulates it, ten times slower."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index or 0])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    assert resolve_dtype("auto", torch.device(name)) == expected
    assert resolve_dtype("float32", torch.device(name)) == torch.float32


def test_cards_of_another_maker_are_numbered_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (0, 0))
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize(
    ("cuda", "said"),
    [(None, "is a build without CUDA"), ("13.0", "is built for CUDA 13.0 and needs a driver")],
)
def test_a_gpu_that_auto_cannot_use_is_no_secret(
    cuda: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a driver that is too old, the large model would be served on the CPU without a word."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(devices, "NVIDIA_FILES", (tmp_path / "none", tmp_path / "nvidiactl"))
    resolve_device("auto")
    assert caplog.text == ""
    (tmp_path / "nvidiactl").touch()
    resolve_device("cpu")
    assert caplog.text == ""
    assert resolve_device("auto").type == "cpu"
    assert said in caplog.text
    assert str(tmp_path / "nvidiactl") in caplog.text
