"""A small runner on a GPU made of the CPU, one without a GPU, and embeddings of the same pictures by both."""

from collections.abc import Iterator

import pytest
import torch

from model.runner import Sam2Runner
from model.types import Embedding, Pixels
from tests.golden.recipe import image
from tests.model.gpu.small_runners import SMALL, make_gpu_runner
from tests.model.test_runner import make_runner


@pytest.fixture(scope="module")
def _one_thread() -> Iterator[None]:
    """Two threads wait for each other more than they do for tensors as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain() -> Sam2Runner:
    """The same weights without a GPU."""
    return make_runner(SMALL)


@pytest.fixture(scope="module")
def runner() -> Sam2Runner:
    runner = make_gpu_runner()
    runner.warm_up()
    return runner


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    return [image("first", 320, 200), image("second", 90, 160), image("third", 100, 100)]


@pytest.fixture(scope="module")
def plain_embeddings(plain: Sam2Runner, pictures: list[Pixels]) -> list[Embedding]:
    return plain.encode(pictures)


@pytest.fixture(scope="module")
def embeddings(runner: Sam2Runner, pictures: list[Pixels]) -> list[Embedding]:
    return runner.encode(pictures)
