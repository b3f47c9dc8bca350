"""Which Devices Ray is told for a call: one alone where a key is held, else also those that are less busy.

Needs the extra `cluster` (make test-cluster), but starts no Ray.
"""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="the extra cluster is not installed; make test-cluster does")
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # Ray's imports

DEVICES = ("a", "b", "c")


async def chosen(key: str, *, busy: dict[str, int], living: tuple[str, ...] = DEVICES) -> list[str]:
    """Return the names of the Devices for a key, in the order in which they are tried."""
    from app.cluster.ray_router import RingRouter
    from app.cluster.ring import Ring

    router: Any = RingRouter.__new__(RingRouter)
    router._ring, router._always_taken = Ring(DEVICES), 4
    router._replicas = {_Id(name): name for name in living}
    router._replica_queue_len_cache = SimpleNamespace(get=lambda each: busy.get(each.unique_id))
    pending: Any = SimpleNamespace(
        routing_context=SimpleNamespace(should_backoff=False),
        metadata=SimpleNamespace(session_id=key, internal_request_id=""),
    )
    found = await RingRouter.choose_replicas(router, [], pending)
    return [name for (name,) in found]


class _Id(str):
    """Stands for Ray's ReplicaID."""

    @property
    def unique_id(self) -> str:
        return str(self)


async def test_a_picture_is_passed_on_by_a_busy_device_and_a_track_is_not() -> None:
    from app.cluster.keys import of_image, of_track, of_video

    for key in (of_image("truck", "ann"), of_track("walk", "ann"), of_video("clip", "ann")):
        owner = (await chosen(key, busy={}))[0]
        found = await chosen(key, busy={owner: 50})
        is_held = key != of_image("truck", "ann")
        assert (found == [owner]) is is_held
        assert found[-1] == owner
        (next_one, *_) = await chosen(key, busy={}, living=tuple(each for each in DEVICES if each != owner))
        assert next_one != owner
