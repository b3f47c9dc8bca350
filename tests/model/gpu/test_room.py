"""Memory of GPUs of any size: how many embeddings fit, what else is taken, and what is said where nothing fits."""

import logging
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.checkpoints.parameters import untrained_parameters
from model.gpu.engine import GpuEngine
from model.gpu.graphs import FixedWork
from model.gpu.options import GpuOptions
from model.gpu.room import MARGIN_BYTES, PICTURE_BYTES, Room, num_slots_beside, slot_bytes
from model.network.config import VARIANTS
from model.network.preprocessing import Preprocessing
from model.network.sam2 import Sam2
from model.runner import load_runner
from model.types import Pixels
from tests.model.gpu.host_gpu import HostGpu
from tests.model.gpu.meta_memory import META, MetaGpu, peak_bytes
from tests.model.gpu.small_runners import CLICK, SMALL, engine_of, make_gpu_runner
from tests.model.video.small import CONFIG

pytestmark = pytest.mark.usefixtures("_one_thread")

MIB, GIB = 2**20, 2**30
OF_THE_PROCESS = 450 * MIB
"""Context, and kernels loaded so far."""
OF_A_DESKTOP = 600 * MIB


def model_of(variant: str) -> Sam2:
    with META:
        model = Sam2(VARIANTS[variant]).to(torch.bfloat16).eval().requires_grad_(requires_grad=False)
    model.sam_prompt_encoder.pe_layer.float()
    with torch.inference_mode():
        model.image_encoder.trunk.fix_size(model.config.mask_size, model.config.mask_size)
    return model


def weights_of(model: Sam2) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


@pytest.mark.parametrize(
    ("card", "variant", "options", "least"),
    [
        (8 * GIB, "sam2.1_hiera_large", GpuOptions(batch_prompts=32), 450),
        (8 * GIB, "sam2.1_hiera_large", GpuOptions(batch_images=8, batch_prompts=64), 100),
        (4 * GIB, "sam2.1_hiera_tiny", GpuOptions(batch_prompts=32), 150),
        (16 * GIB, "sam2.1_hiera_large", GpuOptions(batch_prompts=32), 1400),
        (80 * GIB, "sam2.1_hiera_large", GpuOptions(batch_images=8, batch_prompts=64), 9000),
    ],
)
def test_a_card_of_any_size_keeps_as_many_embeddings_as_it_can(
    card: int, variant: str, options: GpuOptions, least: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside them fit the model, graphs of the largest batches, and what comes and goes."""
    caplog.set_level(logging.INFO)
    model = model_of(variant)
    gpu = MetaGpu(card - OF_THE_PROCESS - OF_A_DESKTOP - weights_of(model))
    engine = GpuEngine(model, gpu, options, preprocess=lambda image: image)
    encoder, decoder = gpu.peaks
    assert encoder > 130 * MIB * options.batch_images
    assert decoder > 15 * MIB * options.batch_prompts
    arena = len(engine.arena) * slot_bytes(model)
    comes_and_goes = max(PICTURE_BYTES, encoder, decoder) + MARGIN_BYTES
    left = gpu.free - arena - encoder - decoder - comes_and_goes
    assert 0 <= left < slot_bytes(model)
    assert engine.cache_bytes == arena - num_slots_beside(options) * slot_bytes(model)
    assert engine.cache_bytes // slot_bytes(model) >= least
    assert re.search(
        r"Room for \d+ embeddings.*SAM2_DEVICE_CACHE_MIB=auto: \d+ MiB were free, \d+ are for", caplog.text
    )


@pytest.mark.parametrize(("free", "tracks"), [(40 * GIB, 1024), (4 * GIB, 535), (2 * GIB, 23), (GIB, 0)])
def test_tracks_have_what_they_may_remember_or_a_quarter_of_a_small_card(free: int, tracks: int) -> None:
    """Embeddings would have taken all but the reserve, and a long track have found no memory for ever."""
    room = Room(free, encoder_bytes=300 * MIB, decoder_bytes=700 * MIB, track_bytes=GIB)
    others = replace(room, track_bytes=0)
    assert room.tracks_get // MIB == tracks
    one = slot_bytes(model := model_of("sam2.1_hiera_tiny"))
    assert (others.num_slots(model) - room.num_slots(model)) * one == pytest.approx(tracks * MIB, abs=2 * one)
    assert f" are for graphs, {tracks} for tracks, " in str(room)
    assert "track" not in str(others)


def test_a_model_for_pictures_leaves_nothing_to_tracks() -> None:
    """Theirs are masks in host memory."""
    found = []
    for config in (SMALL, CONFIG):
        with torch.device("meta"):
            model = Sam2(config)
        untrained_parameters(model, device=HostGpu.device, dtype=torch.float32)
        gpu = HostGpu()
        gpu.free = 1100 * MIB
        options = GpuOptions(track_mib=10)
        engine = GpuEngine(model, gpu, options, preprocess=lambda image: image)
        found.append((len(engine.arena), engine.track_bytes))
        gpu.peaks.clear()
    (without, none), (beside, tracks) = found
    assert (without - beside) * slot_bytes(model) == 10 * MIB
    assert (none, tracks) == (None, 10 * MIB)


def test_tracks_hear_that_they_have_a_quarter_of_a_small_card() -> None:
    """They took what the settings say, the reserve of clicks and pictures too."""
    gpu = HostGpu()
    gpu.free = 1100 * MIB
    measured, said = (
        make_gpu_runner(gpu=gpu, config=CONFIG, options=GpuOptions(cache_mib=cache, track_mib=1024))
        for cache in (None, 1)
    )
    assert measured.tracking.most_bytes == (gpu.free - PICTURE_BYTES - MARGIN_BYTES) // 4
    assert said.tracking.most_bytes is None


def test_a_card_that_is_too_small_is_told_what_to_lower() -> None:
    model = model_of("sam2.1_hiera_large")
    gpu = MetaGpu(2 * GIB - OF_THE_PROCESS - weights_of(model))
    with pytest.raises(ValueError, match=named("auto", prompts=32, images=1)) as raised:
        GpuEngine(model, gpu, GpuOptions(batch_prompts=32), preprocess=lambda image: image)
    assert re.search(r"\(\d+ MiB were free, [78]\d\d are for graphs, 924 in reserve\)", str(raised.value))


def named(cache: str, *, prompts: int, images: int) -> str:
    return (
        f"SAM2_DEVICE_CACHE_MIB={cache}, SAM2_BATCH_PROMPTS={prompts} and SAM2_BATCH_IMAGES={images}. Lower them, "
        "or choose a smaller SAM2_MODEL"
    )


def test_an_arena_that_does_not_fit_names_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 4.00 GiB")

    monkeypatch.setattr("model.gpu.engine.Arena", refuse)
    with pytest.raises(
        ValueError, match=named("1", prompts=8, images=2) + r". \(tried to allocate 4\.00 GiB"
    ):
        make_gpu_runner()


def test_more_than_is_free_is_refused_before_a_driver_may_use_host_memory() -> None:
    """As that of Windows does, without a word, and ten times slower."""
    gpu = HostGpu()
    gpu.free = MIB
    with pytest.raises(
        ValueError, match=named("1", prompts=8, images=2) + r". \(\d+ embeddings of .* 1 MiB are"
    ):
        make_gpu_runner(gpu=gpu)


@pytest.mark.parametrize("stream", ["clicks", "pictures"])
def test_a_warm_up_without_memory_ends_the_server_and_names_the_settings(stream: str) -> None:
    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu)

    def refuse(*_: object, **__: object) -> Any:
        raise torch.AcceleratorError("CUDA error: out of memory")  # of cudaGraphInstantiate

    getattr(gpu, stream).capture = refuse
    with pytest.raises(ValueError, match=named("1", prompts=8, images=2)):
        runner.warm_up()


def test_graphs_are_captured_from_the_largest_down_with_empty_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """All graphs of a stream share one pool, which does not grow after the largest."""
    names: list[str] = []
    idle: set[bool] = set()

    def captured(work: FixedWork, *_: object, is_idle: bool, **__: object) -> Any:
        names.append(work.name)
        idle.add(is_idle)
        work.fill()
        return work.run

    for place in ("encoding", "decoding"):
        monkeypatch.setattr(f"model.gpu.{place}.captured", captured)
    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu)
    runner.warm_up()
    pictures = [int(name.split()[2]) for name in names if name.startswith("encoder")]
    prompts = [int(name.split()[2]) for name in names if name.startswith("decoder")]
    assert pictures == [2, 1]
    assert prompts == sorted(prompts, reverse=True)
    assert set(prompts) == {1, 2, 4, 8}
    assert names.index("decoder for 8 x 3 tokens") < names.index("decoder for 8 x 2 tokens")
    assert idle == {True}
    assert gpu.trims == 1


def test_while_serving_a_capture_does_not_empty_the_caches(
    pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That waits for the device, which may be encoding."""
    gpu = HostGpu()
    runner = make_gpu_runner(gpu=gpu)
    (embedding,) = runner.encode(pictures[:1])
    capture, idle = gpu.clicks.capture, []
    monkeypatch.setattr(
        gpu.clicks, "capture", lambda work, is_idle: (idle.append(is_idle), capture(work, is_idle=is_idle))[1]
    )
    runner.decode([(embedding, CLICK)])
    assert (idle, gpu.trims) == ([False], 0)


def test_a_picture_of_100_megapixels_takes_less_than_a_gibibyte() -> None:
    preprocess = Preprocessing(side=1024, device=META)

    def shrink() -> None:
        pixels = torch.empty(8660, 11547, 3, dtype=torch.uint8, device=META)
        preprocess.by_channel(pixels)

    assert 600 * MIB < peak_bytes(shrink) < PICTURE_BYTES + 64 * MIB < GIB


def test_channels_shrunk_one_by_one_are_the_whole_bit_for_bit() -> None:
    preprocess = Preprocessing(side=128, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    for height, width in ((200, 320), (90, 1000), (128, 128), (40, 30)):
        image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
        assert torch.equal(preprocess.by_channel(image), preprocess(image))


def test_a_gpu_shrinks_channels_one_by_one() -> None:
    runner = make_gpu_runner()
    assert engine_of(runner)._encoding._preprocess == runner._preprocess.by_channel


def test_a_card_that_has_no_memory_for_the_weights_is_told_what_to_lower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others may use it, too."""

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr("model.runner.load_image_half", fail)
    monkeypatch.setattr("model.runner.resolve_device", torch.device)
    with pytest.raises(ValueError, match=r"a smaller SAM2_MODEL\. \(CUDA out of memory\. Tried"):
        load_runner("sam2.1_hiera_tiny", checkpoint=None, device="cuda", dtype="bfloat16")
    with pytest.raises(torch.OutOfMemoryError):
        load_runner("sam2.1_hiera_tiny", checkpoint=None, device="cpu", dtype="bfloat16")
