"""Pictures on their way to the GPU while it encodes others."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from model.gpu.device import Mark
from model.runner import Sam2Runner
from model.types import Embedding, Pixels
from tests.golden.recipe import image
from tests.model.gpu.host_gpu import HostGpu, HostMark
from tests.model.gpu.small_runners import engine_of, make_gpu_runner

pytestmark = pytest.mark.usefixtures("_one_thread")


class Log:
    """What a HostGpu was asked for, in order."""

    def __init__(self, gpu: HostGpu, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        upload, look = gpu.uploads.upload, HostMark.is_reached

        def uploading(array: Pixels, into: torch.Tensor) -> None:
            self.lines.append(f"upload {array.shape[0]} x {array.shape[1]}")
            upload(array, into)

        def looking(mark: HostMark) -> bool:
            self.lines.append("look")
            return look(mark)

        monkeypatch.setattr(gpu.uploads, "upload", uploading)
        monkeypatch.setattr(HostMark, "is_reached", looking)

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return [line for i, line in enumerate(lines) if line != "look" or lines[i - 1 : i] != ["look"]]


@pytest.fixture
def gpu() -> HostGpu:
    return HostGpu()


@pytest.fixture
def fresh(gpu: HostGpu) -> Sam2Runner:
    made = make_gpu_runner(gpu=gpu)
    made.warm_up()
    return made


def same(one: Embedding, other: Embedding) -> bool:
    return all(map(torch.equal, one.maps(), other.maps()))


def expecting(runner: Sam2Runner, images: Sequence[Pixels]) -> Callable[[], None]:
    return lambda: runner.expect(images)


def test_what_follows_is_uploaded_while_the_gpu_encodes_and_not_again(
    gpu: HostGpu, fresh: Sam2Runner, pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two batches the GPU would otherwise wait for the host to copy, 3 to 8 ms for a photo of a phone."""
    quiet = [fresh.encode([each])[0] for each in pictures]
    log = Log(gpu, monkeypatch)
    (first,) = fresh.encode(pictures[:1], between=expecting(fresh, pictures[1:]))
    assert log.take() == ["upload 200 x 320", "look", "upload 160 x 90", "look", "upload 100 x 100", "look"]
    second, third = fresh.encode(pictures[1:], between=expecting(fresh, []))
    assert log.take() == ["look"]
    assert all(map(same, (first, second, third), quiet))


@pytest.mark.parametrize("order", [(2, 1), (2,), (1,), (0, 1), (0, 2)])
def test_what_follows_may_be_something_else(
    order: tuple[int, ...], fresh: Sam2Runner, pictures: list[Pixels]
) -> None:
    quiet = [fresh.encode([each])[0] for each in pictures]
    fresh.encode(pictures[:1], between=expecting(fresh, pictures[1:]))
    for _ in range(2):
        actual = fresh.encode([pictures[i] for i in order])
        assert all(same(one, quiet[i]) for one, i in zip(actual, order, strict=True))


def test_the_next_batch_of_a_call_is_uploaded_before_the_first_is_waited_for(
    gpu: HostGpu, fresh: Sam2Runner, pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(gpu, monkeypatch)
    fresh.encode(pictures)
    assert log.take() == ["upload 200 x 320", "upload 160 x 90", "upload 100 x 100", "look"]


def test_clicks_pass_before_the_third_batch_of_a_call_is_uploaded(
    gpu: HostGpu, fresh: Sam2Runner, pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its buffer is in use until the first batch is done, and the host would block on it."""
    log = Log(gpu, monkeypatch)
    fresh.encode([*pictures[:1] * 4, *pictures[1:2]], between=expecting(fresh, pictures[2:]))
    assert log.take() == ["upload 200 x 320"] * 4 + [
        "look",
        "upload 160 x 90",
        "look",
        "upload 100 x 100",
        "look",
    ]


def test_buffers_are_written_only_after_what_reads_them(
    gpu: HostGpu, fresh: Sam2Runner, pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, HostMark]] = []
    waits: list[str] = []
    for name in ("uploads", "pictures"):
        stream = getattr(gpu, name)

        def mark(name: str = name, mark: Callable[[], HostMark] = stream.mark) -> HostMark:
            new = mark()
            made.append((name, new))
            return new

        def after(mark: Mark, name: str = name) -> None:
            waits.extend(f"{name} after {other}" for other, known in made if known is mark)

        monkeypatch.setattr(stream, "mark", mark)
        monkeypatch.setattr(stream, "after", after)
    fresh.encode(pictures[:2])
    waits.clear()
    fresh.encode(pictures[:2])
    assert waits == ["uploads after pictures"] * 2 + ["pictures after uploads"]


def test_nothing_is_expected_while_nothing_is_encoded(
    gpu: HostGpu, fresh: Sam2Runner, plain: Sam2Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(gpu, monkeypatch)
    for runner in (fresh, plain):
        runner.expect([image("any", 40, 30)])
    banner = np.zeros((10, 9000, 3), np.uint8)  # shrunk on the host, which takes long
    fresh.encode([image("any", 40, 30)], between=expecting(fresh, [banner]))
    assert log.take() == ["upload 30 x 40", "look"]


def test_what_does_not_fit_beside_the_running_batch_is_uploaded_later(
    fresh: Sam2Runner, pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = engine_of(fresh)._encoding
    preprocess, calls = encoding._preprocess, []

    def full(pixels: torch.Tensor) -> torch.Tensor:
        calls.append(pixels.shape)
        if 1 < len(calls) < 9 and encoding._is_waiting:
            raise torch.OutOfMemoryError("Tried to allocate 1.00 GiB")
        return preprocess(pixels)

    monkeypatch.setattr(encoding, "_preprocess", full)
    fresh.encode(pictures[:1], between=expecting(fresh, pictures[1:2]))
    assert len(calls) == 2  # one for each picture: not again at every look, while clicks wait
    (actual,) = fresh.encode(pictures[1:2])
    (expected,) = fresh.encode(pictures[1:2])
    assert same(actual, expected)
