"""Embeddings that a request has fetched from the host or the disk: how many are held at a time.

Does not know what they are for.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Protocol

from app.errors import Overloaded
from app.scheduling.shares import Shares, Turns
from app.settings import Settings
from app.storage.store import EmbeddingStore
from app.telemetry.stages import StageTimes
from model.types import Embedding


class _Find(Protocol):
    async def __call__(self, image_id: str, *, tenant: str, times: StageTimes, share: str) -> Embedding: ...


_FOR_NEWCOMERS = 8
"""Embeddings in addition, of clients that hold none."""


class Fetching:
    """Places for embeddings that are fetched, fair between clients.

    A request holds its embedding until it is done, so the store's limits do not bound a thousand clicks on a
    thousand pictures of the disk: they would hold a thousand embeddings of 11 MiB each while they wait for the
    decoder. What is on the device when its request comes takes no place: the store counts it.
    """

    def __init__(self, settings: Settings, *, store: Callable[[], EmbeddingStore], find: _Find) -> None:
        """`batch_prompts` places; `max_waiting_prompts` requests of one client have one or wait for one."""
        self._turns = Turns(settings.batch_prompts, reserved=_FOR_NEWCOMERS)
        self._admitted = Shares(settings.max_waiting_prompts)
        self._store, self._find = store, find

    @asynccontextmanager
    async def held(
        self, image: str | Embedding, *, tenant: str, times: StageTimes, share: str
    ) -> AsyncIterator[Embedding]:
        """Yield the embedding of an image id, which the caller holds while the block runs, or the one given.

        Raises what `find` raises, and Overloaded where too many wait.
        """
        if isinstance(image, Embedding):
            yield image
            return
        name = await self._store().look_up(image, tenant=tenant)
        is_near = name.content in self._store().tiers.device
        async with nullcontext() if is_near else self._place(share):
            # Looks it up anew: while it waited, the name may have been deleted or given to another picture.
            yield await self._find(image, tenant=tenant, times=times, share=share)

    @asynccontextmanager
    async def _place(self, share: str) -> AsyncIterator[None]:
        if not self._admitted.admits(share, 1):
            held = f"{self._admitted.held(share)} of yours and {self._admitted.used} of all"
            raise Overloaded(
                f"Too many requests wait for embeddings that are not on the device: {held} "
                "(SAM2_MAX_WAITING_PROMPTS). Try again later.",
                retry_after_s=5,
            )
        self._admitted.add(share, 1)
        try:
            async with self._turns.turn(share):
                yield
        finally:
            self._admitted.remove(share, 1)
