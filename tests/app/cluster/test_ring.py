"""The ring: every server finds the same Device, few keys move, and a busy Device passes on what is too much."""

import pytest

from app.cluster.ring import CANDIDATES, Ring, within_bounds

KEYS = [f"tenant/{i}" for i in range(2000)]


def names(count: int) -> list[str]:
    return [f"device-{i}" for i in range(count)]


def owners(ring: Ring) -> dict[str, str]:
    return {key: ring.ranked(key)[0] for key in KEYS}


def test_every_server_finds_the_same_devices_whatever_it_has_seen_before() -> None:
    fresh = Ring(reversed(names(5)))
    grown = Ring(names(5), before=Ring([*names(3), "gone"]))
    assert all(fresh.ranked(key) == grown.ranked(key) for key in KEYS)
    assert grown.names == set(names(5))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
def test_a_key_has_an_owner_and_successors_each_once(count: int) -> None:
    ring = Ring(names(count))
    for key in ("", "tenant/ä", *KEYS[:50]):
        ranked = ring.ranked(key)
        assert len(ranked) == len(set(ranked)) == min(count, CANDIDATES)


def test_only_the_keys_of_a_device_that_comes_or_goes_move() -> None:
    before = Ring(names(8))
    old, new = owners(before), owners(Ring(names(9), before=before))
    assert {new[key] for key in KEYS if new[key] != old[key]} == {"device-8"}
    left = Ring(names(8)[1:], before=before)
    for key in KEYS:
        owner, successor, *_ = before.ranked(key)
        assert left.ranked(key)[0] == (successor if owner == "device-0" else owner)


def test_keys_are_spread_evenly() -> None:
    owned = list(owners(Ring(names(8))).values())
    assert max(map(owned.count, names(8))) < 1.25 * len(KEYS) / 8


@pytest.mark.parametrize(
    ("loads", "total", "always_taken", "order"),
    [
        ((0, 0, 0), 0, 1, "abc"),  # nobody is busy
        ((3, 0, 0), 3, 4, "abc"),  # busier than the others, but not busy
        ((4, 0, 0), 4, 4, "bca"),
        ((9, 9, 0), 18, 4, "cab"),
        ((9, 9, 9), 27, 4, "abc"),  # all are: the bound is above each
        ((9, 0, 0), 90, 4, "abc"),  # those that are no candidates are busier still
    ],
)
def test_a_device_far_above_the_mean_passes_calls_on(
    loads: tuple[int, int, int], total: int, always_taken: int, order: str
) -> None:
    load = dict(zip("abc", loads, strict=True))
    found = within_bounds("abc", load.__getitem__, total=total, devices=3, always_taken=always_taken)
    assert "".join(found) == order


def test_somebody_is_always_within_bounds() -> None:
    for loads in [(1, 2, 3), (40, 40, 40), (0, 0, 97), (5, 5, 6)]:
        load = dict(zip("abc", loads, strict=True))
        first = within_bounds("abc", load.__getitem__, total=sum(loads), devices=3, always_taken=1)[0]
        assert load[first] <= 1.25 * (sum(loads) + 1) / 3
