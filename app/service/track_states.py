"""Tracks by tenant and name, bounded in number and in time; their prompts are kept, and shared with other servers.

Belongs to the event loop. Does not know how objects are followed.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from app.errors import InvalidPrompt
from app.names_errors import NamesUnreachable
from app.service.prompt_history import with_own
from app.service.track_state import TrackState
from app.storage.kept_tracks import ChangedElsewhere, NotKept, TrackChanges, TrackKeeper, TrackRow
from app.storage.pages import Place, place_in
from app.storage.register_file import Key
from app.storage.upkeep import Upkeep
from app.track_errors import TrackBusy, TrackIdConflict, TrackNotFound

log = logging.getLogger(__name__)


class TrackStates:
    """All tracks. `on_forget` is called with each that is forgotten, or changed by another server."""

    def __init__(
        self, keeper: TrackKeeper, *, most: int, ttl_s: float, on_forget: Callable[[TrackState], None]
    ) -> None:
        self._keeper, self._most, self._ttl_s, self._on_forget = keeper, most, ttl_s, on_forget
        self._states: dict[Key, TrackState] = {}
        self._unsaved: dict[TrackState, None] = {}  # those that were tried longest ago first
        self._missed: dict[Key, TrackRow] = {}  # of tracks that were worked on when other servers' rows came
        self._upkeep = Upkeep(self.tend, "the tracks")

    def __len__(self) -> int:
        """The number of tracks."""
        return len(self._states)

    async def open(self) -> None:
        """Read the tracks of earlier servers, and start the maintenance."""
        await self._catch_up(waits=False)
        self._upkeep.start()

    async def close(self) -> None:
        """Stop the maintenance, and write what is pending."""
        if await self._upkeep.stop():
            await self._save_unsaved()

    def now(self) -> float:
        """Return the time by which tracks have their ages."""
        return self._keeper.now()

    async def find(self, track_id: str, *, tenant: str) -> TrackState:
        """Return a track. Raises TrackNotFound, and NamesUnreachable if other servers may have it."""
        key = Key(tenant, track_id)
        await self._catch_up(waits=key not in self._states)
        state = self._states.get(key)
        if state is None:
            raise TrackNotFound.for_id(track_id)
        return state

    async def check_free(self, track_id: str, *, tenant: str, mark: str = "") -> TrackState | None:
        """Return None if there is no track of that name, or the one that was begun with this mark.

        Raises TrackIdConflict for another one, and NamesUnreachable.
        """
        await self._catch_up(waits=True)
        known = self._states.get(Key(tenant, track_id))
        if known is not None and (not mark or known.mark != mark):
            raise TrackIdConflict.for_id(track_id)
        return known

    async def newest(self, *, tenant: str, limit: int, after: str | None) -> list[TrackState]:
        """Return at most `limit` tracks that follow `after`, newest first.

        Raises TrackNotFound, and NamesUnreachable if other servers may have the track `after`.
        """
        place, key = (None, None) if after is None else (place_in(after), Key(tenant, after))
        await self._catch_up(waits=key is not None and place is None and key not in self._states)
        own = [each for each in self._states.values() if each.tenant == tenant]
        own.sort(key=lambda each: (each.created, each.track_id), reverse=True)
        if key is None:
            return own[:limit]
        if place is None:
            if (last := self._states.get(key)) is None:
                raise TrackNotFound(f"after={after!r} names no track. Start again without it.")
            place = Place(last.created, last.track_id)
        return [each for each in own if (each.created, each.track_id) < place][:limit]

    async def add(self, state: TrackState) -> None:
        """Add a track. Beyond `most`, the tenant's least recently used idle one is forgotten.

        Raises TrackIdConflict, and NamesUnreachable.
        """
        tenant, key = state.tenant, state.key
        await self.check_free(state.track_id, tenant=tenant)
        own = [each for each in self._states.values() if each.tenant == tenant]
        idle = sorted((each for each in own if not each.lock.locked()), key=lambda each: each.used)
        self._states[key] = state
        try:
            for oldest in idle[: max(0, len(own) + 1 - self._most)]:
                await self.forget(oldest)
            await self._write(state, waits=True)
        except NotKept:
            self._unsaved[state] = None
        except (NamesUnreachable, asyncio.CancelledError):
            self._let_go(state)
            raise
        except ChangedElsewhere as error:
            self._let_go(state)
            if error.row is not None:
                self._take(TrackChanges([error.row], {}))
            raise TrackIdConflict.for_id(state.track_id) from error

    async def save(self, state: TrackState, *, is_maintenance: bool = False) -> None:
        """Write a track's prompts, unless it is forgotten. Without the disk or the servers' database, later.

        Raises TrackBusy and TrackNotFound if another server has changed it meanwhile; its changes count, and what
        could not be written before. The maintenance changes no track that is worked on.
        """
        self._unsaved.pop(state, None)  # before it is written: it may be lost again meanwhile
        try:
            await self._write(state, waits=False)
        except (NamesUnreachable, NotKept):
            self._unsaved[state] = None
        except asyncio.CancelledError:
            self._unsaved[state] = None  # nobody hears whether it could be written
            state.answered = tuple(state.history)
            raise
        except ChangedElsewhere as error:
            if error.row is None:
                self._let_go(state)
                raise TrackNotFound.deleted_meanwhile(state.track_id) from error
            if is_maintenance and state.lock.locked():
                self._missed[state.key], self._unsaved[state] = error.row, None
                return
            self._renew(state, error.row)
            raise TrackBusy.elsewhere(state.track_id) from error
        state.answered = tuple(state.history)

    async def forget(self, state: TrackState) -> None:
        """Forget a track. Who works on it finds `is_deleted`. Raises NamesUnreachable, and keeps it then."""
        await self._keeper.remove(state.key)
        self._let_go(state)
        await self._keeper.remove(state.key)  # it may have been written meanwhile

    async def tend(self) -> None:
        """Take in what other servers did, write what could not be written, and forget what has expired."""
        await self._catch_up(waits=False)
        await self._save_unsaved()
        if self._ttl_s:
            due = self.now() - self._ttl_s
            with suppress(NamesUnreachable):
                for state in [each for each in self._states.values() if each.created < due]:
                    await self.forget(state)

    async def _save_unsaved(self) -> None:
        for state in list(self._unsaved):
            with suppress(TrackBusy, TrackNotFound):  # another server's changes count
                await self.save(state, is_maintenance=True)
            if state in self._unsaved and state.key not in self._missed:
                break  # it still fails

    async def _write(self, state: TrackState, *, waits: bool) -> None:
        """Write, to its end even if the request goes away: the number of the change must be known."""

        async def write() -> None:
            async with state.writing:  # else the second of two would not know the number of the first
                history = tuple(state.history)
                state.number = await self._keeper.save(
                    state.key,
                    state.to_json(),
                    state.number,
                    is_wanted=partial(_is_wanted, state),
                    waits=waits,
                )
                state.shared = history

        writing = asyncio.create_task(write())
        writing.add_done_callback(_hear)
        await asyncio.shield(writing)

    async def _catch_up(self, *, waits: bool) -> None:
        found = await self._keeper.catch_up(waits=waits)
        missed, self._missed = self._missed, {}
        for changes in (TrackChanges(list(missed.values()), {}), *found):
            self._take(changes)

    def _take(self, changes: TrackChanges) -> None:
        """Take in what other servers did. What this one has seen or written since is newer."""
        if changes.is_lost:
            self._unsaved |= dict.fromkeys(self._states.values())
        for row in changes.rows:
            known = self._states.get(row.key)
            if known is None:
                if (state := _read(row)) is not None:
                    self._states[row.key] = state
            elif known.number < row.number:
                new = _read(row)
                if new is not None and new.created != known.created:  # deleted, and begun anew under its name
                    self._let_go(known)
                    self._states[row.key] = new
                elif known.lock.locked():  # who works on it hears of it when it writes, and others afterwards
                    self._missed[row.key] = row
                else:
                    self._renew(known, row)
        gone = dict(changes.removed)
        if changes.all_until is not None:
            gone |= dict.fromkeys(self._states, changes.all_until)
        for key in gone.keys() - {row.key for row in changes.rows}:
            self._missed.pop(key, None)
            state = self._states.get(key)
            if state is not None and 0 < state.number <= gone[key]:
                self._let_go(state)

    def _renew(self, state: TrackState, row: TrackRow) -> None:
        """Give a track the prompts that another server wrote, beside those that could not be written yet."""
        if (new := _read(row)) is None:
            return
        with_ours = new.history
        try:
            with_ours = with_own(new.history, shared=state.shared, own=state.answered)
        except InvalidPrompt as error:
            log.warning("Prompts that another server does not have are dropped: %s", error)
        state.history, state.used, state.number = with_ours, new.used, new.number
        state.shared, state.answered = new.shared, tuple(with_ours)
        if state.answered != state.shared:
            self._unsaved[state] = None
        self._on_forget(state)

    def _let_go(self, state: TrackState) -> None:
        state.is_deleted = True
        self._unsaved.pop(state, None)
        self._missed.pop(state.key, None)
        if self._states.get(state.key) is state:
            del self._states[state.key]
        if not state.lock.locked():
            self._on_forget(state)


def _read(row: TrackRow) -> TrackState | None:
    try:
        state = TrackState.of_json({**row.content, "tenant": row.key.tenant, "name": row.key.image_id})
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, InvalidPrompt) as error:
        log.warning("A kept track cannot be read: %r", error)
        return None
    state.number = row.number
    return state


def _hear(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        task.exception()  # marks it as retrieved: the request may be gone


def _is_wanted(state: TrackState) -> bool:
    return not state.is_deleted
