"""What may be captured and compiled: nothing asks the device for a value, and what is wrong is not used."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.gpu.arena import Arena
from model.gpu.decoder import GpuDecoder
from model.gpu.encoder import GpuEncoder
from model.gpu.graphs import relative_error
from model.network.sam2 import Sam2
from tests.golden.recipe import image
from tests.model.gpu.host_gpu import HostGpu
from tests.model.gpu.small_runners import CLICK, OPTIONS, SMALL, decode_one, engine_of, make_gpu_runner
from tests.model.test_runner import assert_equal

META = torch.device("meta")

ASKING = (
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "nonzero",
    "_unique2",
    "masked_select",
    "_to_copy",
)
"""Operations after which the host waits, or whose result has a shape that depends on values; a copy may be both."""


class NothingAsksTheDevice(TorchDispatchMode):
    """Fails where an operation would make the host wait, or mixes tensors of the host with those of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        name = func.overloadpacket.__name__
        if name == "_to_copy":
            device = (kwargs or {}).get("device", META)
            assert torch.device(device) == META, "copied to another device"
        else:
            assert name not in ASKING, f"{func} makes the host wait"
        flat, _ = torch.utils._pytree.tree_flatten((args, kwargs))
        for argument in flat:
            assert not isinstance(argument, Tensor) or argument.device == META, (
                f"{func}: a tensor of the host"
            )
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def on_meta() -> tuple[Sam2, Arena, GpuDecoder]:
    """A model, an arena and a decoder on a device that has no values, so that none can be asked for."""
    with META:
        model = Sam2(SMALL).to(torch.bfloat16).eval().requires_grad_(requires_grad=False)
    model.sam_prompt_encoder.pe_layer.float()
    with torch.inference_mode():
        model.image_encoder.trunk.fix_size(SMALL.mask_size, SMALL.mask_size)
    arena = Arena(SMALL, slots=3, device=META, dtype=torch.bfloat16)
    return model, arena, GpuDecoder(model, arena)


@torch.inference_mode()
@pytest.mark.parametrize("has_masks", [False, True])
@pytest.mark.parametrize("tokens", [0, 2, 5])
def test_decoding_asks_for_no_value(
    on_meta: tuple[Sam2, Arena, GpuDecoder], tokens: int, has_masks: bool
) -> None:
    _, _, decoder = on_meta
    side = SMALL.mask_size
    inputs: list[Tensor | None] = [
        torch.zeros(4, dtype=torch.int64, device=META),
        torch.zeros(4, tokens, 2, device=META),
        torch.zeros(4, tokens, dtype=torch.int64, device=META),
        torch.zeros(4, 1, side, side, device=META) if has_masks else None,
        torch.zeros(4, dtype=torch.bool, device=META),
    ]
    planes, scores = torch.zeros(3, 4, side, side, device=META), torch.zeros(4, 4, device=META)
    with NothingAsksTheDevice() as watch:
        output = decoder.network(*inputs)  # type: ignore[arg-type]
        decoder.choose(output, inputs[-1], planes=planes, scores=scores)  # type: ignore[arg-type]
    assert 100 < watch.count < 400
    assert (output.logits.shape, output.logits.dtype) == ((4, 4, 64, 16), torch.bfloat16)
    assert (output.iou.shape, output.iou.dtype) == ((4, 4), torch.float32)


@torch.inference_mode()
def test_encoding_asks_for_no_value(on_meta: tuple[Sam2, Arena, GpuDecoder]) -> None:
    model, arena, _ = on_meta
    images = torch.zeros(2, 3, 128, 128, device=META, dtype=torch.bfloat16)
    slots = torch.zeros(2, dtype=torch.int64, device=META)
    with NothingAsksTheDevice() as watch:
        arena.write(slots, *GpuEncoder(model)(images))
    assert watch.count > 100


def test_what_is_watched_for_is_found() -> None:
    with NothingAsksTheDevice(), pytest.raises(AssertionError, match="makes the host wait"):
        torch.zeros(3, device=META).nonzero()
    with NothingAsksTheDevice(), pytest.raises(AssertionError, match="a tensor of the host"):
        torch.zeros(3, device=META) + torch.zeros(())
    with NothingAsksTheDevice(), pytest.raises(AssertionError, match="copied to another device"):
        torch.zeros(3, device=META).to("cpu")


def test_errors_are_relative_and_nan_is_never_right() -> None:
    ones, nan = torch.ones(4), torch.tensor([1.0, torch.nan, 1.0, 1.0])
    assert relative_error([ones, 1.1 * ones], [ones, ones]) == pytest.approx(0.1)
    assert not relative_error([ones, nan], [ones, ones]) <= 1.0
    assert not relative_error([nan], [nan]) <= 1.0
    assert relative_error([0 * ones], [0 * ones]) == 0.0
    assert relative_error([0.02 * ones], [0.01 * ones]) == pytest.approx(0.1)  # twice, but next to nothing


Network = Callable[..., Sequence[Tensor]]


def traced(network: Network) -> Network:
    """Traced by torch.compile as a whole, and then run as it is: no compiler is needed."""
    return torch.compile(network, backend="eager", fullgraph=True, dynamic=False)


def wrong(network: Network) -> Network:
    return lambda *arguments: [2 * output for output in network(*arguments)]


def refused(network: Network) -> Network:
    def fail(*arguments: Any) -> Sequence[Tensor]:
        raise RuntimeError("Triton is missing")

    return fail


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        (traced, ""),
        (wrong, r"The compiled (en|de)coder for 1 .* is wrong by 1, allowed is 0\.05"),
        (refused, r"The (en|de)coder for 1 .* cannot be compiled"),
    ],
)
def test_with_compilation_answers_stay_the_same(
    compiler: Callable[[Network], Network],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shapes = {"WARM_TOKENS": (2,), "WARM_SESSION": ()}
    for name, value in shapes.items():
        monkeypatch.setattr(f"model.gpu.decoding.{name}", value)
    for place in ("encoding", "decoding"):
        monkeypatch.setattr(f"model.gpu.{place}.compiled", compiler)
    gpu = HostGpu()
    options = replace(OPTIONS, batch_images=1, batch_prompts=1)
    plain, runner = (
        make_gpu_runner(options=options),
        make_gpu_runner(gpu=gpu, options=replace(options, compile="on")),
    )
    with caplog.at_level(logging.INFO):
        runner.warm_up()
    assert "the server is not ready before" in caplog.text
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == (2 if said else 0)
    assert all(re.search(said, error) for error in errors)
    assert caplog.text.count("Compiled the") == (0 if said else 2)
    assert gpu.clicks.captures == gpu.pictures.captures == 1
    pictures = [image("any", 60, 40)]
    expected = decode_one(plain, plain.encode(pictures)[0])
    assert_equal(decode_one(runner, runner.encode(pictures)[0]), expected, tolerance=1e-4)
    with caplog.at_level(logging.INFO):  # a shape that is first met while serving is captured, not compiled
        runner.decode([(runner.encode(pictures)[0], replace(CLICK, points=CLICK.points * 2, labels=(1, 1)))])
    assert gpu.clicks.captures == 2
    assert caplog.text.count("Compiled the") == (0 if said else 2)
    assert engine_of(runner).most_prompts == 1


class Copies(TorchDispatchMode):
    """Counts copies that join a single tensor to itself, and pooling that also keeps where each maximum was."""

    def __init__(self) -> None:
        super().__init__()
        self.needless: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if (name == "cat" and len(args[0]) == 1) or name.startswith("max_pool2d"):
            self.needless.append(name)
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def test_nothing_is_copied_or_kept_for_nothing(on_meta: tuple[Sam2, Arena, GpuDecoder]) -> None:
    """Copies after attention were 7 % of the large encoder on a GPU."""
    model, _, _ = on_meta
    with Copies() as copies:
        GpuEncoder(model)(torch.zeros(2, 3, 128, 128, device=META, dtype=torch.bfloat16))
    assert copies.needless == []


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [128, 224])
def test_fewer_copies_change_no_bit(size: int, dtype: torch.dtype) -> None:
    """Maps of 224 pixels are windows without a rest, those of 128 have one."""
    model = make_gpu_runner(dtype=dtype).model
    model.image_encoder.trunk._resized_positions = None
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert all(map(torch.equal, GpuEncoder(model)(images), model.encode(images)))
