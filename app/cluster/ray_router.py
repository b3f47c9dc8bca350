"""How Ray Serve finds the Device of a call: by the ring, with bounded loads.

Ray makes one router in each Front, and tells it which Devices there are. Does not know what is called.
"""

from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from app.cluster.keys import is_held
from app.cluster.ring import Ring, within_bounds


class RingRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types
    """A call's `session_id` is its key; one without goes to any Device.

    Ray's queue lengths count what this Front has sent and not got back; with each call, a Device says what it has.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ring = Ring(())
        self._always_taken = 0

    def initialize_state(self, *, always_taken: int) -> None:
        """Take over the deployment's `request_router_kwargs`."""
        self._always_taken = always_taken

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take over the Devices that Ray has."""
        super().update_replicas(replicas)
        names = {replica.unique_id for replica in self.curr_replicas}
        if names != self._ring.names:
            self._ring = Ring(names, before=self._ring)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the Devices for a call, best first. Ray passes by those that have `max_ongoing_requests`."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # before Ray asks for them a second time
        queues = self.replica_queue_len_cache
        loads = {each.unique_id: queues.get(each) or 0 for each in self.curr_replicas}
        replicas = {each.unique_id: replica for each, replica in self.curr_replicas.items()}
        metadata = pending_request.metadata
        key = metadata.session_id or metadata.internal_request_id
        ranked = self._ring.ranked(key)
        living = [name for name in ranked if name in replicas]  # Ray leaves out one that died at once
        if is_held(key):
            return [[replicas[name]] for name in living[:1]]
        names = within_bounds(
            living,
            loads.__getitem__,
            total=sum(loads.values()),
            devices=len(loads),
            always_taken=self._always_taken,
        )
        return [[replicas[name]] for name in names]
