"""The real networks, small: a batch of objects equals its singles, and what the first need loads."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.checkpoints.halves import VideoSource, video_shapes
from model.checkpoints.parameters import load_parameters, shapes_of
from model.cpu.video_memory import CpuVideoMemory
from model.errors import CheckpointError
from model.network.config import VARIANTS
from model.network.memory import VideoMemory
from model.network.sam2 import Sam2
from model.runner import Sam2Runner
from model.types import Embedding, Prompt
from model.video.network import DeviceNetwork, _fitting
from model.video.track import Track
from model.video.values import Direction, Frame, MaskPrompt, Output, Request, Seen, TrackPrompt
from tests.model.checkpoints.weight_files import saved
from tests.model.video.small import CONFIG, randomised, small_runner

CLICK = Prompt(points=((30.0, 40.0),), labels=(1,))


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Sam2Runner, DeviceNetwork]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runner, memory = small_runner()
    yield runner, DeviceNetwork(runner.model, memory, fast=CpuVideoMemory(memory))
    torch.set_num_threads(threads)


def pictures(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 255, (96, 128, 3), np.uint8) for _ in range(count)]


def frames(runner: Sam2Runner, count: int) -> list[Frame]:
    return [Frame(i, each) for i, each in enumerate(runner.encode(pictures(count)))]


def test_objects_together_equal_objects_alone(small: tuple[Sam2Runner, DeviceNetwork]) -> None:
    """Prompted on different frames, they remember differently much."""
    runner, network = small
    video = frames(runner, 6)
    prompts: dict[int, tuple[int, TrackPrompt]] = {
        1: (0, CLICK),
        2: (3, CLICK),
        3: (0, MaskPrompt(np.eye(5, dtype=bool))),
        4: (1, CLICK),
    }
    found: dict[tuple[int, ...], dict[int, list[np.ndarray]]] = {}
    for chosen in ((1, 2, 3, 4), (1,), (2,), (3,), (4,)):
        track = Track(network, num_frames=6)
        for object_id in chosen:
            index, prompt = prompts[object_id]
            track.prompt(video[index], object_id, prompt)
        for index in track.unsettled:
            track.settle(video[index])
        masks: dict[int, list[np.ndarray]] = {each: [] for each in chosen}
        for direction, order in ((Direction.FORWARD, range(6)), (Direction.BACKWARD, range(4, -1, -1))):
            for index in order:
                for each in track.step(video[index], direction=direction):
                    assert each.logits is not None
                    masks[each.object_id].append(each.logits)
        found[chosen] = masks
    for object_id in prompts:
        alone = np.stack(found[object_id,][object_id])
        together = np.stack(found[1, 2, 3, 4][object_id])
        assert np.abs(alone - together).max() < 1e-3 * np.abs(alone).max()


def test_the_cpus_own_way_is_that_of_the_paper_and_pauses(small: tuple[Sam2Runner, DeviceNetwork]) -> None:
    runner, network = small
    video, calls = frames(runner, 5), []
    shown: list[np.ndarray] = []
    for each in (DeviceNetwork(runner.model, network._memory), network.calling(lambda: calls.append(None))):
        track = Track(each, num_frames=5)
        for object_id in range(5):  # more than are decoded together
            track.prompt(video[0], object_id, CLICK)
        assert not shown or calls
        calls.clear()
        steps = [track.step(frame) for frame in video]
        shown.append(np.stack([mask.logits for step in steps for mask in step if mask.logits is not None]))
    assert len(calls) > 4 * 5 * 10
    assert np.abs(shown[0] - shown[1]).max() < 1e-3 * np.abs(shown[0]).max()
    calls.clear()
    Track(network, num_frames=5).prompt(video[0], 1, CLICK)
    assert not calls  # those of another track


def test_a_gpu_follows_a_few_objects_at_once(
    small: tuple[Sam2Runner, DeviceNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 64 of a track would take 6 GiB of a memory that embeddings have filled, and never be followed."""
    runner, network = small
    video, memory = frames(runner, 2), network._memory
    most = []

    def noting(way: Any) -> Any:
        def noted(features: Any, objects: Any, *others: Any) -> Any:
            most.append(len(objects))
            return way(features, objects, *others)

        return noted

    for name in ("condition", "remember"):
        monkeypatch.setattr(memory, name, noting(getattr(memory, name)))
    shown = []
    for count in (9, 1):
        track = Track(DeviceNetwork(runner.model, memory), num_frames=2)
        for object_id in range(count):
            track.prompt(video[0], object_id, CLICK)
        shown.append([track.step(frame)[-1].logits for frame in video][1])
    assert most == [4, 4, 1, 4, 4, 1, 4, 4, 1] + [1] * 3
    assert shown[0] is not None
    assert shown[1] is not None
    assert np.abs(shown[0] - shown[1]).max() < 1e-3 * np.abs(shown[0]).max()


def test_a_gpu_follows_fewer_at_once_of_those_that_remember_much() -> None:
    """Frames with a prompt are all remembered."""
    memory = torch.zeros(1)
    requests = [Request(Seen(((memory, 0),) * frames, ())) for frames in (7, 7, 7, 7, 7, 20, 9, 30, 1)]
    requests += [Request(None, CLICK)] * 5
    assert list(map(len, _fitting(requests))) == [4, 2, 1, 1, 4, 2]
    assert [each for some in _fitting(requests) for each in some] == requests
    assert not list(_fitting([]))


def seen_by(network: DeviceNetwork, embedding: Embedding, *, memories: int) -> Seen:
    (output,) = network.decode(embedding, [Request(None, CLICK)])
    (memory,) = network.remember(embedding, [output], prompted=True)
    return Seen(tuple((memory, row) for row in range(memories)), ((output.pointer, 0.5),))


def test_a_frame_has_no_memory_of_its_neighbours_in_the_batch(
    small: tuple[Sam2Runner, DeviceNetwork],
) -> None:
    runner, network = small
    first, second = (each.embedding for each in frames(runner, 2))
    seen = [seen_by(network, first, memories=n) for n in (1, 3, 1)]
    together = network.decode(second, [Request(each) for each in seen])
    for each, output in zip(seen, together, strict=True):
        (alone,) = network.decode(second, [Request(each)])
        assert alone.logits is not None
        assert output.logits is not None
        torch.testing.assert_close(alone.logits, output.logits, rtol=1e-3, atol=1e-3)


def test_plain_features_are_the_embedding_without_what_says_no_memory(
    small: tuple[Sam2Runner, DeviceNetwork],
) -> None:
    runner, network = small
    (picture,) = pictures(1)
    (embedding,) = runner.encode([picture])
    with torch.inference_mode():
        batch = runner._preprocess(torch.from_numpy(picture))[None]
        stride_16 = runner.model.image_encoder(batch)[2][0].flatten(1).T
    plain = network._plain(embedding)
    # Where a CPU adds up in another order, the encoder for CPUs rounds otherwise than the plain one.
    assert (plain - stride_16).abs().max() < 2**-20 * embedding.image_rows.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tracks_too(small: tuple[Sam2Runner, DeviceNetwork], dtype: torch.dtype) -> None:
    _, exact = small
    runner, memory = small_runner(dtype)
    network = DeviceNetwork(runner.model, memory, fast=CpuVideoMemory(memory))
    sign = []
    for each, model in ((exact, small[0]), (network, runner)):
        video = frames(model, 4)
        track = Track(each, num_frames=4)
        track.prompt(video[0], 1, CLICK)
        (shown,) = [track.step(frame) for frame in video][-1]
        assert shown.logits is not None
        assert shown.logits.dtype == np.float32
        sign.append(shown.logits)
    assert np.corrcoef(sign[0].ravel(), sign[1].ravel())[0, 1] > 0.9


def test_bytes_of_a_frame_are_what_the_track_says(small: tuple[Sam2Runner, DeviceNetwork]) -> None:
    runner, network = small
    (frame,) = frames(runner, 1)
    track = Track(network, num_frames=1)
    track.prompt(frame, 1, CLICK)
    track.step(frame)
    assert track.nbytes == 64 * 16 * 2 + 32 * 32 * 4 + 64 * 4  # 64 cells; 769 KiB at 1024 px and full width
    assert track.nbytes == runner.tracking.frame_bytes
    released = VARIANTS["sam2.1_hiera_tiny"]
    assert released.video is not None
    cells, side = released.embedding_size**2, released.mask_size
    assert cells * released.video.memory_dim * 2 + side**2 * 4 + released.embed_dim * 4 == 769 * 1024
    # Nothing holds the rest of a batch: each tensor has memory of its own.
    for output in track._objects[1].conditioning.values():
        for tensor in (output.logits, output.pointer, output.memory):
            assert tensor is not None
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_an_empty_mask_says_that_the_object_is_not_there(small: tuple[Sam2Runner, DeviceNetwork]) -> None:
    runner, network = small
    (frame,) = frames(runner, 1)
    (shown,) = Track(network, num_frames=1).prompt(frame, 1, MaskPrompt(np.zeros((3, 3), bool)))
    assert (shown.visible, shown.object_score, shown.iou) == (False, -10, 1)
    assert shown.logits is not None
    assert (shown.logits < 0).all()
    output: Output = network.take_mask(frame.embedding, MaskPrompt(np.zeros((3, 3), bool)))
    torch.testing.assert_close(output.pointer, network._memory.no_obj_ptr[0])


def written(path: Path, *, with_video: bool = True) -> tuple[VideoSource, dict[str, torch.Tensor]]:
    """A file of both halves, and where its video half is to be had after the image half was loaded."""
    with torch.device("meta"):
        model, memory = Sam2(CONFIG), VideoMemory(CONFIG)
    weights = dict(randomised(model, 1).state_dict())
    if with_video:
        weights |= randomised(memory, 2).state_dict()
    saved({"model": weights}, path)
    with torch.device("meta"):
        images = Sam2(CONFIG)
    fingerprint = load_parameters(
        images,
        path,
        variant="small",
        device=torch.device("cpu"),
        dtype=torch.float32,
        beside=video_shapes(CONFIG),
    )
    return VideoSource(CONFIG, "small", path, fingerprint), weights


def test_the_video_half_is_loaded_when_it_is_first_needed(tmp_path: Path) -> None:
    source, weights = written(tmp_path / "weights.pt")
    with torch.device("meta"):
        images = Sam2(CONFIG)
    images.load_state_dict({name: weights[name] for name in shapes_of(images)}, assign=True)
    runner = Sam2Runner(images, name="small", weights_fingerprint="small", video=source)
    assert not runner.tracking.is_loaded
    network = runner.tracking.network()
    assert runner.tracking.network() is network
    for name, value in network._memory.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


def test_the_video_half_can_be_loaded_before_a_track_needs_it() -> None:
    runner, _ = small_runner()
    runner.tracking.load()
    assert runner.tracking.is_loaded


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_a_cpu_decodes_by_the_weights_as_they_are_in_the_file(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    source, weights = written(tmp_path / "weights.pt")
    with torch.device("meta"):
        images, memory = Sam2(CONFIG), VideoMemory(CONFIG)
    for half in (images, memory):
        half.load_state_dict({name: weights[name].clone() for name in shapes_of(half)}, assign=True)
    exact = DeviceNetwork(images, memory)
    rounded = copy.deepcopy(images)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(dtype)
    runner = Sam2Runner(rounded, name="small", weights_fingerprint="small", video=source)
    first, second = (frame.embedding for frame in frames(runner, 2))
    network = runner.tracking.network()
    for each in (CLICK, Prompt(box=(5.0, 5.0, 90.0, 60.0))):
        (expected,), (found,) = (one.decode(first, [Request(None, each)]) for one in (exact, network))
        assert found.logits is not None
        assert expected.logits is not None
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=0)
    assert network._memory.dtype == dtype
    (output,) = network.decode(second, [Request(seen_by(network, first, memories=2))])
    assert output.pointer.dtype == dtype


def load(source: VideoSource) -> VideoMemory:
    return source.load(device=torch.device("cpu"), dtype=torch.float32)


def test_both_halves_must_be_of_one_file(tmp_path: Path) -> None:
    source, weights = written(tmp_path / "weights.pt")
    weights["no_mem_embed"] = weights["no_mem_embed"] + 1
    saved({"model": weights}, tmp_path / "weights.pt")
    with pytest.raises(
        CheckpointError, match="has changed since the image half was loaded: start the server again"
    ):
        load(source)
    (tmp_path / "weights.pt").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(source)


def test_a_file_of_the_image_half_alone_says_so(tmp_path: Path) -> None:
    source, _ = written(tmp_path / "weights.pt", with_video=False)
    with pytest.raises(CheckpointError, match="holds the image half alone"):
        load(source)


def test_a_model_for_pictures_says_so() -> None:
    source = VideoSource(replace(CONFIG, video=None), "builtin", None, "")
    with pytest.raises(CheckpointError, match="builtin knows pictures only"):
        load(source)


def test_random_weights_have_a_random_video_half() -> None:
    memory = load(VideoSource(CONFIG, "small", None, ""))
    assert all(torch.isfinite(each).all() for each in memory.parameters())
    assert not any(each.requires_grad for each in memory.parameters())


def test_the_video_half_changes_no_fingerprint_of_an_embedding() -> None:
    assert str(CONFIG) == str(replace(CONFIG, video=None))
