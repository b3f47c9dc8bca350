"""Embeds the pictures of a project before anybody clicks on them, one after another, in the background.

A run has the share of its client. It waits while clicks are answered, tries again when the server is busy or the
client over its rate, which holds up no other client, and ends when half of the memory for embeddings is full of its
pictures. Belongs to the event loop. Does not know how pictures are embedded.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from app.doors.label_studio.pictures import Caller, Source
from app.errors import RetryableError, ServiceError, ShuttingDown
from app.scheduling.shares import Shares, Turns
from app.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

MOST_WAITING = 50_000
"""Pictures of one client that wait, in all its runs. All clients together have a third more; likewise below."""
MOST_BYTES = 64 * 2**20
"""Of their addresses and of their tasks' ids: signed addresses may have kilobytes."""
MOST_RUNS = 64
_SLICE = 4096
"""Pictures that are added in one turn of the event loop."""
_AT_ONCE = 2
"""Pictures of all runs that are fetched or embedded at a time: one is fetched while another is embedded. A client
that has none under way need not wait for those of another, which may come from a slow server."""
_TRIES = 20
_REPORT_S = 10.0

Embed = Callable[[Source, Caller], Awaitable[tuple[bool, int]]]
"""Embeds a picture. Returns whether it had been embedded before, and how many pictures of its size may be kept."""


@dataclass(eq=False)
class _Run:
    caller: Caller
    waiting: dict[Source, int] = field(default_factory=dict)
    """With the memory that each takes."""
    embedded: int = 0
    known: int = 0
    failed: int = 0
    reported_at: float = field(default_factory=monotonic)

    @property
    def done(self) -> int:
        return self.embedded + self.known + self.failed

    def __str__(self) -> str:
        return (
            f"Label Studio's project {self.caller.project.partition('.')[0][:64]!r}: {self.done} of "
            f"{self.done + len(self.waiting)} pictures embedded ahead, {self.known} of them before, "
            f"{self.failed} failed"
        )


class Ahead:
    """The runs. `embed` makes one embedding.

    `pictures_per_minute` is the rate of a client, 0 for any. Its runs take half of it: they would leave its clicks
    on other pictures none.
    """

    def __init__(self, embed: Embed, metrics: Metrics, *, pictures_per_minute: float = 0.0) -> None:
        self._embed = embed
        self._pause_s = 120 / pictures_per_minute if pictures_per_minute else 0.0
        self._paused_until: dict[str, float] = {}
        self._metrics = metrics
        self._runs: dict[Caller, _Run] = {}
        self._pictures, self._bytes = Shares(MOST_WAITING), Shares(MOST_BYTES)
        self._runs_of = Shares(MOST_RUNS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = Turns(_AT_ONCE, reserved=1)
        self._clicks = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        metrics.pictures_ahead.set_function(lambda: self.waiting)

    @property
    def waiting(self) -> int:
        """Pictures that are not embedded yet."""
        return self._pictures.used

    async def add(self, sources: Sequence[Source], caller: Caller) -> None:
        """Embed these pictures in the background. Those that wait already are not added again."""
        dropped, run = 0, None
        for at in range(0, len(sources), _SLICE):
            if at:
                await asyncio.sleep(0)
            run = self._runs.get(caller) or _Run(caller)
            dropped += self._add(sources[at : at + _SLICE], run)
        if run is None:
            return
        if dropped:
            log.warning("%s; %d more are not, because too many wait already", run, dropped)
        if run.waiting:
            log.info("%s", run)

    def _add(self, sources: Sequence[Source], run: _Run) -> int:
        """Let pictures wait. Return how many there is no room for."""
        share = run.caller.share
        is_new = run.caller not in self._runs
        may_run = not is_new or self._runs_of.admits(share, 1)
        dropped = 0
        for source in sources:
            if source in run.waiting:
                continue
            nbytes = source.nbytes
            if not (may_run and self._pictures.admits(share, 1) and self._bytes.admits(share, nbytes)):
                dropped += 1
                continue
            run.waiting[source] = nbytes
            self._pictures.add(share, 1)
            self._bytes.add(share, nbytes)
        if run.waiting and is_new:
            self._runs[run.caller] = run
            self._runs_of.add(share, 1)
            task = asyncio.create_task(self._work_off(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return dropped

    def _forget(self, run: _Run) -> None:
        if run.waiting:
            self._release(run, len(run.waiting), sum(run.waiting.values()))
        run.waiting.clear()

    def _release(self, run: _Run, pictures: int, nbytes: int) -> None:
        self._pictures.remove(run.caller.share, pictures)
        self._bytes.remove(run.caller.share, nbytes)

    @contextmanager
    def click(self) -> Iterator[None]:
        """Start no picture while the block runs."""
        self._clicks += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._clicks -= 1
            if not self._clicks:
                self._quiet.set()

    async def close(self) -> None:
        """End all runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work_off(self, run: _Run) -> None:
        try:
            while run.waiting:
                source = next(iter(run.waiting))
                most = await self._try(run, source)
                self._release(run, 1, run.waiting.pop(source))
                # A picture that may not be fetched fails without waiting, and so do thousands.
                await asyncio.sleep(0)
                if most is not None and run.embedded >= most and run.waiting:
                    log.warning(
                        "%s; the rest would push others out of memory, so it is not. SAM2_CACHE_DIR keeps more",
                        run,
                    )
                    self._forget(run)
                elif monotonic() - run.reported_at > _REPORT_S:
                    log.info("%s", run)
                    run.reported_at = monotonic()
            log.info("%s; done", run)
        except ShuttingDown:
            log.info("%s; stopped, because the server stops", run)
        finally:
            self._forget(run)
            share = run.caller.share
            self._runs_of.remove(share, 1)
            if not self._runs_of.held(share):
                self._paused_until.pop(share, None)
            del self._runs[run.caller]

    async def _pause(self, share: str) -> None:
        """Wait until a client's rate allows another picture, which is then taken."""
        while (pause_s := self._paused_until.get(share, 0.0) - monotonic()) > 0:  # noqa: ASYNC110  # a clock's
            await asyncio.sleep(pause_s)
        self._paused_until[share] = monotonic() + self._pause_s

    async def _try(self, run: _Run, source: Source) -> int | None:
        """Embed one picture, whatever happens. Return how many of its size a run may embed."""
        share = run.caller.share
        for _ in range(_TRIES):
            await self._pause(share)
            try:
                async with self._turns.turn(share):
                    await self._quiet.wait()
                    known, most = await self._embed(source, run.caller)
            except ShuttingDown:
                raise
            except RetryableError as error:
                reason = error.message
                await asyncio.sleep(error.retry_after_s)  # without its turn, which another client may need
            except ServiceError as error:
                reason = error.message
                break
            except Exception:  # a bug: it is logged, and the others follow
                log.exception("A picture of task %.40s was not embedded ahead", source.task)
                reason = "internal error"
                break
            else:
                if known:
                    self._paused_until.pop(share, None)  # it counts towards no rate
                run.known += known
                run.embedded += not known
                self._metrics.embedded_ahead.labels("known" if known else "embedded").inc()
                return most
        self._paused_until.pop(share, None)
        run.failed += 1
        self._metrics.embedded_ahead.labels("failed").inc()
        log.warning(
            "The picture of Label Studio's task %.40s was not embedded ahead: %s", source.task, reason
        )
        return None
