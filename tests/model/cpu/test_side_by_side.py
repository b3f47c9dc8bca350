"""Parts of work run at the same time, and share torch's threads."""

import threading
from collections.abc import Iterator

import pytest
import torch

from model.cpu.side_by_side import SideBySide, divided

PATIENCE_S = 60


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_run_at_the_same_time_and_share_the_threads(parts: int) -> None:
    meeting = threading.Barrier(parts)

    def work(part: int) -> tuple[int, int, bool]:
        meeting.wait(PATIENCE_S)  # raises unless all are there
        return part, torch.get_num_threads(), torch.is_inference_mode_enabled()

    beside = SideBySide(4)
    for _ in range(3):
        assert beside.run(work, range(parts)) == [(part, 4 // parts, True) for part in range(parts)]
        assert torch.get_num_threads() == 4


def test_one_part_has_all_threads_and_starts_none() -> None:
    before = threading.active_count()
    assert SideBySide(4).run(lambda _: torch.get_num_threads(), ["all"]) == [4]
    assert threading.active_count() == before
    assert SideBySide(4).run(str, []) == []


@pytest.mark.parametrize("failing", [{0}, {1}, {0, 1}])
def test_a_part_that_fails_does_not_leave_others_running(failing: set[int]) -> None:
    ended = []

    def work(part: int) -> None:
        if part in failing:
            raise ValueError(f"part {part}")
        ended.append(part)

    with pytest.raises(ValueError, match=f"part {min(failing)}"):
        SideBySide(4).run(work, range(4))
    assert set(ended) == set(range(4)) - failing
    assert torch.get_num_threads() == 4


def test_helpers_take_tiny_numbers_as_zero() -> None:
    tiny = torch.full((8,), 1e-30)
    largest = SideBySide(4).run(lambda _: float((tiny * 1e-10).max()), range(4))
    assert largest[1:] == [0, 0, 0]


@pytest.mark.parametrize(
    ("count", "parts", "sizes"),
    [(1, 2, [1]), (2, 2, [1, 1]), (5, 2, [3, 2]), (16, 3, [6, 5, 5]), (4, 1, [4])],
)
def test_divided(count: int, parts: int, sizes: list[int]) -> None:
    slices = divided(count, parts)
    assert [len(range(count)[each]) for each in slices] == sizes
    assert [i for each in slices for i in range(count)[each]] == list(range(count))
