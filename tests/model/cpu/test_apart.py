"""Parts of one work on several threads: results in order, faults, pauses, and the settings of every thread."""

import threading
from collections.abc import Iterator
from time import sleep

import pytest
import torch

from model.cpu.apart import Between, Part, Task, divided, run_all, run_apart
from model.cpu.threads import read_clocks

LONG_S = 60.0
"""A timeout that no passing test comes near."""


@pytest.fixture(autouse=True, params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


def nothing() -> None:
    """Is called between the parts of the work."""


def test_results_are_in_order_and_parts_run_at_a_time(threads: int) -> None:
    meet = threading.Barrier(threads)

    def part(number: int) -> Part[tuple[int, int]]:
        def run(_: Between) -> tuple[int, int]:
            if number < threads:
                meet.wait(LONG_S)
            return number, torch.get_num_threads()

        return run

    found = run_apart([part(number) for number in range(10)], nothing)
    assert found == [(number, 1) for number in range(10)]
    assert run_apart([lambda _: torch.get_num_threads()], nothing) == [threads]


def test_few_parts_share_the_threads(threads: int) -> None:
    torch.set_num_threads(5)
    meet = threading.Barrier(2)

    def part(_: Between) -> int:
        meet.wait(LONG_S)
        return torch.get_num_threads()

    try:
        assert run_apart([part] * 2, nothing) == [2, 2]
        assert torch.get_num_threads() == 5
        assert run_apart([], nothing) == []
    finally:
        torch.set_num_threads(threads)


def test_only_the_calling_thread_pauses(threads: int) -> None:
    caller, paused = threading.get_ident(), set()
    meet = threading.Barrier(threads)

    def part(between: Between) -> None:
        meet.wait(LONG_S)
        between()

    run_apart([part] * threads, lambda: paused.add(threading.get_ident()))
    assert paused == {caller}


def test_what_follows_goes_before_what_waits() -> None:
    order = []

    def task(name: str, *following: Task) -> Task:
        def run(_: Between) -> tuple[Task, ...]:
            order.append(name)
            return following

        return run

    run_all([task("a", task("b", task("c"), task("d")), task("e", task("f")), task("g"))], nothing)
    assert "".join(order) == "abcdefg"


def test_a_thread_without_a_task_waits_for_what_follows_and_the_calling_one_pauses(threads: int) -> None:
    """Each task that follows waits until every thread has one, though one thread alone had all to begin with."""
    meet, paused = threading.Barrier(threads), threading.Event()

    def first(_: Between) -> list[Task]:
        if threads > 1 and threading.get_ident() != caller:
            assert paused.wait(LONG_S)  # the calling thread has nothing to do, and clicks pass it
        return [follow] * threads

    def follow(_: Between) -> tuple[()]:
        meet.wait(LONG_S)
        done.append(threading.get_ident())
        return ()

    def idle(_: Between) -> tuple[()]:
        return ()

    caller, done = threading.get_ident(), list[int]()
    run_all([idle, first, *[idle] * (threads - 2)], paused.set)
    assert len(set(done)) == len(done) == threads


def test_a_fault_of_any_thread_reaches_the_caller(threads: int) -> None:
    meet = threading.Barrier(threads)
    caller = threading.get_ident()

    def part(_: Between) -> None:
        meet.wait(LONG_S)
        if threads == 1 or threading.get_ident() != caller:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        run_apart([part] * threads, nothing)


def test_such_work_inside_of_such_work_has_the_share_at_most(threads: int) -> None:
    """Its helpers would wait for the tasks that wait for it."""
    inner: list[list[int]] = []
    meet = threading.Barrier(threads)

    def part(between: Between) -> None:
        meet.wait(LONG_S)
        between()

    def pause() -> None:
        torch.set_num_threads(threads)
        inner.append(run_apart([lambda _: threading.get_ident()] * 2, nothing))

    run_apart([part] * threads, pause)
    assert inner
    assert {each for found in inner for each in found} == {threading.get_ident()}


def test_a_thread_that_waits_for_helpers_is_not_short_of_a_core(threads: int) -> None:
    caller, began = threading.get_ident(), read_clocks()
    meet = threading.Barrier(threads)

    def part(_: Between) -> None:
        meet.wait(LONG_S)
        if threading.get_ident() != caller:
            sleep(0.2)

    run_apart([part] * threads, nothing)
    assert threads == 1 or read_clocks().wall - began.wall < 0.1


def test_a_fault_of_a_pause_ends_the_work(threads: int) -> None:
    caller, paused, begun = threading.get_ident(), threading.Event(), []

    def part(between: Between) -> None:
        begun.append(1)
        between()
        assert threading.get_ident() != caller
        assert paused.wait(LONG_S)

    def pause() -> None:
        paused.set()
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        run_apart([part] * 10_000, pause)
    assert len(begun) < 10_000


def test_at_most_so_many_at_a_time(threads: int) -> None:
    """The threads that are left go to those parts."""
    torch.set_num_threads(6)
    at_work, seen = set[int](), list[tuple[int, int]]()

    def part(_: Between) -> None:
        at_work.add(threading.get_ident())
        seen.append((len(at_work), torch.get_num_threads()))
        sleep(0.001)
        at_work.discard(threading.get_ident())

    try:
        run_apart([part] * 50, nothing, most=2)
        assert set(seen) <= {(1, 3), (2, 3)}
        run_apart([lambda _: seen.append((1, torch.get_num_threads()))], nothing, most=1)
        assert seen[-1] == (1, 6)
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def test_every_thread_is_in_inference_mode_and_takes_tiny_numbers_as_zero(threads: int) -> None:
    flushed = torch.set_flush_denormal(True)
    meet = threading.Barrier(threads)

    def part(_: Between) -> tuple[bool, bool]:
        meet.wait(LONG_S)
        return torch.is_inference_mode_enabled(), bool(torch.tensor(1e-30) * 1e-10 == 0)

    assert run_apart([part] * threads, nothing) == [(True, flushed)] * threads


@pytest.mark.parametrize(
    ("count", "parts", "sizes"),
    [(1, 2, [1]), (2, 2, [1, 1]), (5, 2, [3, 2]), (16, 3, [6, 5, 5]), (4, 1, [4])],
)
def test_divided(count: int, parts: int, sizes: list[int]) -> None:
    slices = divided(count, parts)
    assert [len(range(count)[each]) for each in slices] == sizes
    assert [i for each in slices for i in range(count)[each]] == list(range(count))
