"""The encoder that runs on a CPU is the plain one of the paper, arranged otherwise."""

import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.checkpoints.parameters import untrained_parameters
from model.cpu import encoder, packed
from model.cpu.encoder import CpuEncoder
from model.cpu.packed import PackedLinear, can_pack
from model.cpu.packed_exact import can_pack_exactly
from model.cpu.phases import phases_of
from model.network.config import VARIANTS, Sam2Config
from model.network.sam2 import Sam2
from model.runner import Sam2Runner
from tests.golden.recipe import image
from tests.golden.test_golden import rounds_like_metas_machine

SHORT = {
    "tiny": ((1, 2, 3, 2), (5,)),
    "base_plus": ((2, 2, 3, 1), (5,)),
    "large": ((2, 2, 3, 1), (6,)),
    "builtin": ((1, 2, 2, 1), (3, 4, 5)),
}
"""Stages with fewer blocks, and which are global. Windows and heads are those of the released trunks."""

SIZES = (128, 352)
"""Neither divides into windows of 14; the last map of 352 pixels has an odd side."""


def config_of(name: str, image_size: int) -> Sam2Config:
    stages, everywhere = SHORT[name]
    config = VARIANTS["builtin" if name == "builtin" else f"sam2.1_hiera_{name}"]
    trunk = replace(config.trunk, embed_dim=32, stages=stages, global_attention_blocks=everywhere)
    return replace(config, trunk=trunk, image_size=image_size)


def make_model(config: Sam2Config, dtype: torch.dtype = torch.float32) -> Sam2:
    model = deepcopy(random_model(config)).eval().requires_grad_(requires_grad=False)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


@cache
def random_model(config: Sam2Config) -> Sam2:
    """With random biases and norms, which an untrained model has at 0 and 1: none can be forgotten unseen."""
    with torch.device("meta"):
        model = Sam2(config)
    untrained_parameters(model, device=torch.device("cpu"), dtype=torch.float32)
    chance = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=chance)
    return model


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch uses, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def noise(side: int) -> Tensor:
    return torch.randn(3, side, side, generator=torch.Generator().manual_seed(2))


def errors(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> list[float]:
    pairs = zip(actual, expected, strict=True)
    return [float((one.float() - other).norm() / other.norm()) for one, other in pairs]


def plain(model: Sam2, picture: Tensor) -> tuple[Tensor, ...]:
    return tuple(maps[0] for maps in model.encode(picture[None]))


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SHORT)
def test_it_equals_the_plain_encoder(name: str, size: int) -> None:
    model, picture = make_model(config_of(name, size)), noise(size)
    expected = plain(model, picture)  # first, because the encoder packs weights
    actual = CpuEncoder(model)(picture)
    assert [maps.shape for maps in actual] == [maps.shape for maps in expected]
    assert max(errors(actual, expected)) < 1e-5
    # Maps of fewer rows are multiplied by MKL, some of whose kernels round by the number of rows.
    # feat_s0 comes of a map in another memory format, in which oneDNN adds up in an order of its own.
    if rounds_like_metas_machine() and size == SIZES[-1]:
        assert torch.equal(actual[2], expected[2])


@torch.inference_mode()
@pytest.mark.parametrize(
    "packs", [False, pytest.param(True, marks=pytest.mark.skipif(not can_pack(), reason=""))]
)
@pytest.mark.parametrize("by_products", [False, True])
@pytest.mark.parametrize("name", SHORT)
def test_bfloat16_errs_no_more_than_in_the_plain_encoder(name: str, by_products: bool, packs: bool) -> None:
    config, picture = config_of(name, 128), noise(128)
    expected = plain(make_model(config), picture)
    half = make_model(config, torch.bfloat16)
    most = errors(plain(half, picture.bfloat16()), expected)
    found = errors(CpuEncoder(half, by_products=by_products, packs=packs)(picture.bfloat16()), expected)
    assert all(one <= 1.05 * other for one, other in zip(found, most, strict=True))


@torch.inference_mode()
def test_other_precisions_are_the_plain_encoders() -> None:
    """Float16, and a float32 encoder in front of a bfloat16 decoder, as the built-in model has."""
    config, picture = config_of("builtin", 128), noise(128)
    half = make_model(config, torch.float16)
    found, expected = CpuEncoder(half)(picture.half()), plain(half, picture.half())
    assert max(errors(found, tuple(maps.float() for maps in expected))) < 5e-3
    mixed = make_model(config)
    for name, parameter in mixed.named_parameters():
        if not name.startswith("image_encoder."):
            parameter.data = parameter.data.bfloat16()
    expected = plain(make_model(config), picture)
    most = errors(plain(make_model(config, torch.bfloat16), picture.bfloat16()), expected)
    found = CpuEncoder(mixed)(picture)
    assert {maps.dtype for maps in found} == {torch.bfloat16}
    assert all(one < 0.9 * other for one, other in zip(errors(found, expected), most, strict=True))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_equals_its_singles(dtype: torch.dtype, threads: Callable[[int], None]) -> None:
    threads(1)  # on a crowded machine their number changes, and some machines then add up in another order
    model = make_model(config_of("tiny", 128), dtype)
    runner = Sam2Runner(model, name="short", weights_fingerprint="short")
    pictures = [image("first", 120, 100), image("second", 90, 160)]
    for together, picture in zip(runner.encode(pictures), pictures, strict=True):
        (alone,) = runner.encode([picture])
        assert torch.equal(together.image_rows, alone.image_rows)
        assert torch.equal(together.feat_s0_rows, alone.feat_s0_rows)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["tiny", pytest.param("large", marks=pytest.mark.long)])
def test_clicks_pass_within_a_few_operations_and_no_more_are_done_than_the_network_has(name: str) -> None:
    with torch.device("meta"):
        model = Sam2(VARIANTS[f"sam2.1_hiera_{name}"]).to(torch.bfloat16)
        picture = torch.empty(3, 1024, 1024, dtype=torch.bfloat16)
    model.image_encoder.trunk.fix_size(256, 256)
    done, threads = [0], torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # operations are counted on one
        with FlopCounterMode(display=False) as counter:
            encode = CpuEncoder(model, by_products=True, packs=False)
            encode(picture, lambda: done.append(counter.get_total_flops()))
    finally:
        torch.set_num_threads(threads)
    steps = [after - before for before, after in pairwise(done)]
    # A product with few rows is not cut, however wide it is.
    most = max(encode.slice_operations, 18 * 2 * encoder.MIN_ROWS * model.config.trunk.stage_dims[-1] ** 2)
    assert max(steps) <= most
    if name == "tiny":
        assert 280e9 < counter.get_total_flops() < 294e9


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_patches_come_in_the_order_of_the_maps(dtype: torch.dtype) -> None:
    """Else they are copied from one order to the other with their positions: a twentieth of an encode."""
    model, picture, found = make_model(config_of("tiny", 128), dtype), noise(128).to(dtype), list[Tensor]()
    trunk = model.image_encoder.trunk
    trunk.fix_size(32, 32)
    trunk.patch_embed.register_forward_hook(lambda module, inputs, patches: found.append(patches))
    trunk.embed(picture[None])
    CpuEncoder(model)(picture)
    assert max(errors(tuple(found[1:]), tuple(each.float() for each in found[:1]))) < 5e-3
    assert [patches.is_contiguous() for patches in found] == [False, True]
    assert trunk._resized_positions.is_contiguous()


@torch.inference_mode()
def test_a_click_runs_while_a_picture_is_encoded() -> None:
    """At each of the calls something else takes torch's memory and threads, and the result stays."""
    model, picture = make_model(config_of("tiny", 128)), noise(128)
    encode = CpuEncoder(model)
    expected, calls = encode(picture), []

    def disturb() -> None:
        calls.append(torch.randn(64, 64) @ torch.randn(64, 64))

    assert all(map(torch.equal, encode(picture, disturb), expected))
    assert len(calls) >= 3 * len(model.image_encoder.trunk.blocks)


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        (
            "tiny",
            [
                range(4),
                range(4, 5),
                range(5, 6),
                range(6, 7),
                range(7, 8),
                range(8, 9),
                range(9, 10),
                range(10, 12),
            ],
        ),
        ("builtin", [range(3), *(range(i, i + 1) for i in range(3, 10))]),
    ],
)
def test_an_area_goes_through_all_blocks_up_to_one_that_attends_everywhere(
    name: str, phases: list[range]
) -> None:
    with torch.device("meta"):
        model = Sam2(VARIANTS["builtin" if name == "builtin" else f"sam2.1_hiera_{name}"])
    assert phases_of(list(model.image_encoder.trunk.blocks)) == phases


@torch.inference_mode()
@pytest.mark.parametrize("name", SHORT)
def test_threads_take_areas_and_the_result_stays(name: str, threads: Callable[[int], None]) -> None:
    """Areas of unequal size, at the edge too; `between` belongs to the thread that called."""
    model, picture = make_model(config_of(name, 448)), noise(448)
    encode, found_on, paused_on, seen = CpuEncoder(model), set[int](), set[int](), list[list[Tensor]]()
    for block in model.image_encoder.trunk.blocks:
        block.norm1.register_forward_hook(lambda *_: found_on.add(threading.get_ident()))
    # What comes after the trunk adds up in an order that depends on threads, on some machines.
    model.image_encoder.neck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for count in (1, 2, 3):
        threads(count)
        found_on.clear()
        encode(picture, lambda: paused_on.add(threading.get_ident()))
        assert (len(found_on) > 1) == (count > 1 and can_pack_exactly())
        assert all(map(torch.equal, seen[-1], seen[0]))
    assert paused_on == {threading.get_ident()}


def test_this_build_of_torch_packs_weights() -> None:
    """Private operators do it. Where a new torch lacks them, encodes take a sixth longer: this says so.

    oneDNN multiplies bfloat16 on CPUs with AVX-512 or more.
    """
    assert can_pack() == torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_packed_weights_replace_the_plain_ones() -> None:
    """Else a large model takes 0.4 GB more."""
    model = make_model(config_of("tiny", 128), torch.bfloat16)
    CpuEncoder(model)
    kept = sum(p.numel() for p in model.image_encoder.trunk.blocks.parameters() if p.ndim == 2)
    assert isinstance(model.image_encoder.trunk.blocks[0].attn.qkv, PackedLinear) == can_pack()
    assert (kept == 0) == can_pack()


@torch.inference_mode()
@pytest.mark.parametrize(
    "product",
    [
        pytest.param(lambda x, *_: (_ for _ in ()).throw(RuntimeError("no such operator")), id="fails"),
        pytest.param(lambda x, weight, *_: x.new_zeros(len(x), 32), id="computes something else"),
    ],
)
def test_without_the_operators_layers_stay_torchs(
    product: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed.PackedLinear, "forward", lambda self, x, *rest: product(x, self.weight, *rest))
    monkeypatch.setattr(encoder, "can_pack", can_pack.__wrapped__)
    model = make_model(config_of("tiny", 128), torch.bfloat16)
    encode = CpuEncoder(model)
    assert not isinstance(model.image_encoder.trunk.blocks[0].attn.qkv, PackedLinear)
    assert encode(noise(128).bfloat16())[0].isfinite().all()
