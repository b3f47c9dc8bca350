"""Threads of a forward: fewer while other processes have the cores, all of them again when these are gone."""

import contextlib
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch

from model.cpu.threads import (
    FIRST_PATIENCE_S,
    MOST_PATIENCE_S,
    SHARING,
    WINDOW_S,
    Spent,
    Threads,
    set_up_thread,
)
from model.runner import load_runner


class Machine:
    """Clocks of a machine whose cores other processes share, and the number of threads that was set last."""

    def __init__(self, threads: int) -> None:
        self.clocks = Spent(100.0, 0.0, 0.0)
        self.share = 1.0
        """Of a core, what each of our threads gets."""
        self.serial = 0.0
        """Share of the time in which only the calling thread has something to do."""
        self.threads = Threads(threads, set_threads=self.set_threads, read=lambda: self.clocks)
        self.number = threads
        self.history: list[int] = []

    def set_threads(self, number: int) -> None:
        if number != self.number:
            self.history.append(number)
        self.number = number

    def run(self, seconds: float) -> None:
        """Our threads compute for so long."""
        wall, thread, process = self.clocks
        parallel = seconds * (1 - self.serial)
        together = self.share * (self.number * parallel + seconds * self.serial)
        self.clocks = Spent(wall + seconds, thread + self.share * seconds, process + together)

    def click(self, seconds: float = 2 * WINDOW_S) -> None:
        with self.threads.working():
            self.run(seconds)

    def wait(self, seconds: float) -> None:
        """Nothing is asked for."""
        wall, thread, process = self.clocks
        self.clocks = Spent(wall + seconds, thread, process)


@pytest.fixture
def machine() -> Machine:
    return Machine(4)


def test_a_number_that_changes_while_work_is_shared_counts_afterwards(machine: Machine) -> None:
    """Until then torch's number is the share of the thread."""
    machine.share = 0.3
    try:
        with machine.threads.working() as pause:
            SHARING.threads = 1
            for _ in range(4):
                machine.run(2 * WINDOW_S)
                pause()
            assert (machine.threads.now < 4, machine.history) == (True, [])
            SHARING.threads = 0
            pause()
            assert machine.history == [machine.threads.now]
    finally:
        SHARING.threads = 0


def test_a_quiet_machine_keeps_all_threads(machine: Machine) -> None:
    for _ in range(100):
        machine.click()
        machine.wait(1.0)
    assert machine.history == []


def test_threads_are_halved_until_they_get_their_cores(machine: Machine) -> None:
    machine.share = 0.4
    for _ in range(5):
        machine.click()
    assert machine.history == [2, 1]


def test_a_moment_of_contention_changes_nothing(machine: Machine) -> None:
    for _ in range(20):
        machine.share = 0.4
        machine.click()
        machine.share = 1.0
        machine.click()
    assert machine.history == []


def test_serial_work_is_no_contention(machine: Machine) -> None:
    machine.serial = 0.9
    for _ in range(50):
        machine.click()
    assert machine.history == []


def test_own_threads_that_take_the_core_are_no_contention(machine: Machine) -> None:
    """Of a server: pictures are decoded, masks shaped, and all of that is time of this process."""
    for _ in range(20):
        with machine.threads.working():
            wall, thread, process = machine.clocks
            machine.clocks = Spent(wall + 0.1, thread + 0.05, process + 0.4)
    assert machine.history == []


def test_short_work_is_judged_together(machine: Machine) -> None:
    machine.share = 0.4
    for _ in range(5):
        machine.click(WINDOW_S * 0.4)
    assert machine.history == []
    machine.click(WINDOW_S * 0.4)
    assert machine.history == [2]


def test_all_threads_are_back_when_the_others_are_gone(machine: Machine) -> None:
    machine.share = 0.4
    for _ in range(5):
        machine.click()
    machine.share = 1.0
    for _ in range(100):
        machine.click()
    assert machine.history == [2, 1, 2, 4]


def test_more_threads_are_tried_ever_more_rarely_while_there_is_no_room(machine: Machine) -> None:
    """One busy process on two cores: one thread gets a core, two do not."""
    machine.threads = Threads(2, set_threads=machine.set_threads, read=lambda: machine.clocks)
    machine.number = 2
    attempts: list[float] = []
    for _ in range(10_000):
        before = len(machine.history)
        machine.share = 0.5 if machine.number == 2 else 1.0
        machine.click(0.05)
        if len(machine.history) > before and machine.number == 2:
            attempts.append(machine.clocks.wall)
    pauses = [after - before for before, after in pairwise(attempts)]
    assert pauses[0] >= 2 * FIRST_PATIENCE_S
    assert pauses == pytest.approx(sorted(pauses))
    assert max(pauses) == pytest.approx(MOST_PATIENCE_S, rel=0.05)
    assert len(attempts) < 15


def test_long_work_goes_on_with_fewer_threads(machine: Machine) -> None:
    machine.share = 0.4
    numbers: list[int] = []
    with machine.threads.working() as look:
        for _ in range(6):
            machine.run(2 * WINDOW_S)
            look()
            numbers.append(machine.number)
    assert numbers == [4, 2, 1, 1, 1, 1]


def test_a_click_within_an_encode_is_measured_once(machine: Machine) -> None:
    machine.share = 0.4
    with machine.threads.working() as look:
        for _ in range(6):
            with machine.threads.working():
                machine.run(0.3 * WINDOW_S)
            look()
        assert machine.history == []


def test_work_that_fails_is_measured_too(machine: Machine) -> None:
    machine.share = 0.4
    for _ in range(4):
        with contextlib.suppress(ValueError), machine.threads.working():
            machine.run(WINDOW_S)
            raise ValueError
    assert machine.history == [2, 1]


def test_one_thread_is_left_alone() -> None:
    machine = Machine(1)
    machine.share = 0.1
    for _ in range(10):
        machine.click()
    assert machine.history == []


def test_a_number_that_something_else_has_set_is_set_back(machine: Machine) -> None:
    machine.number = 7
    machine.click()
    assert machine.number == 4


@pytest.fixture
def threads_of_torch() -> Iterator[int]:
    """As many as before; torch's own number is this, whatever a test before has set."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "cpus", "expected"), [(0, None, 2), (0, 64, 2), (0, 1, 1), (3, 1, 3)], ids=str
)
def test_a_runner_has_a_thread_for_each_core_that_its_container_allows(
    threads_of_torch: int, threads: int, cpus: int | None, expected: int
) -> None:
    runner = load_runner(
        "builtin", checkpoint=None, device="cpu", dtype="float32", threads=threads, cpus=cpus
    )
    assert runner.cpu_threads == torch.get_num_threads() == expected


def test_denormal_numbers_are_zero_to_all_threads_of_a_runner() -> None:
    """A softmax with a sharp maximum makes them by the thousand, and they made a click ten times as slow."""
    denormal = torch.full((2**20,), 1e-40)
    found: list[int] = []

    def work() -> None:
        set_up_thread(2, cpus=None)
        found.append(int((denormal * 1.0).view(torch.int32).count_nonzero()))

    thread = threading.Thread(target=work)  # of its own: the others of the tests keep their arithmetic
    thread.start()
    thread.join()
    assert found == [0]
