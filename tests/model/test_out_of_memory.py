"""A runner whose device has no room left says so in words of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.errors import DeviceOutOfMemory
from model.types import Prompt
from tests.model.test_runner import TINY, make_runner


def test_torchs_error_becomes_ours_and_the_runner_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(replace(TINY, image_size=256))
    pixels = np.zeros((40, 60, 3), np.uint8)
    click = Prompt(points=((1.0, 1.0),), labels=(1,))
    (embedding,) = runner.encode([pixels])

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")

    with monkeypatch.context() as broken:
        broken.setattr(runner, "_encoder", fail)
        broken.setattr(runner, "_decode_alike", fail)
        with pytest.raises(DeviceOutOfMemory, match=r"2\.00 GiB"):
            runner.encode([pixels])
        with pytest.raises(DeviceOutOfMemory, match=r"2\.00 GiB"):
            runner.decode([(embedding, click)])
    assert len(runner.encode([pixels])) == len(runner.decode([(embedding, click)])) == 1


def test_a_cpu_has_no_memory_of_its_own() -> None:
    assert make_runner(replace(TINY, image_size=256)).memory_bytes() is None
