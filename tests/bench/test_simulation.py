"""The simulation keeps count: every click is answered, none sooner than a batch, and the ring does what it says."""

from dataclasses import replace

import pytest

from tests.bench.simulation import CPU, GPU, Case, fronts, moved, simulate, tables

SHORT = replace(GPU, seconds=0.2)


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("change", [{}, {"joins": True}, {"leaves": True}])
def test_every_click_is_answered_and_none_sooner_than_a_batch(bounded: bool, change: dict[str, bool]) -> None:
    case = Case(SHORT, 4, bounded=bounded, **change)
    found = simulate(case)
    asked_again = found.clicks - len(found.waits)
    assert asked_again == 0 or (case.leaves and asked_again < 20)
    assert found.percentile(0) > SHORT.batch
    assert simulate(case) == found  # one seed, one result


def test_without_a_bound_all_clicks_go_to_the_owners_which_have_the_pictures() -> None:
    found = simulate(Case(SHORT, 4, bounded=False))
    assert found.elsewhere == found.loads == 0
    assert found.clicks > 100


def test_a_picture_that_is_too_much_for_its_owner_is_spread() -> None:
    slow = replace(CPU, seconds=2)
    plain, bounded = (simulate(Case(slow, 4, bounded=each, hot=0.5)) for each in (False, True))
    assert bounded.elsewhere > 0
    assert bounded.busiest_over_mean < plain.busiest_over_mean
    assert bounded.percentile(99) < plain.percentile(99) / 2


def test_what_comes_or_goes_moves_its_own_share() -> None:
    come, gone, busiest = moved(8, keys=2000)
    assert 0.05 < come < 0.2
    assert 0.05 < gone < 0.2
    assert 1 < busiest < 1.3


def test_fronts_are_whole_cores_that_are_not_full() -> None:
    assert fronts(300, 2.0) == 1
    assert fronts(30_000, 2.0) == 86


def test_the_tables_have_a_line_for_each_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.simulation.GPU", replace(GPU, seconds=0.1))
    monkeypatch.setattr("tests.bench.simulation.CPU", replace(CPU, seconds=0.2))
    lines = tables([2], 2.6).splitlines()
    assert sum(line.startswith("| 2 GPUs") for line in lines) == 4
    assert sum(line.startswith("| 2 CPUs") for line in lines) == 4
    assert lines[-1].startswith("| 2 |")
