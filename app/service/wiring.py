"""Build what the service runs on: the device thread, its watchdog, the worker threads and the queues.

Does not know about requests: service.py decides what goes through the queues, and when.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from app.process import return_freed_memory
from app.scheduling.batching import Batcher
from app.scheduling.device import DeviceThread
from app.scheduling.memory import WithinMemory
from app.scheduling.shares import Workers
from app.scheduling.watchdog import Watchdog
from app.segmenter import Segmenter
from app.service.decodings import Decodable, DecodeBatch, SearchBatch, Shaped, weight
from app.service.encodings import Encodings
from app.service.picture_rates import PictureRates
from app.settings import Settings
from app.storage.opening import bucket_by, sharing_by
from app.storage.store import EmbeddingStore
from app.telemetry.metrics import Metrics
from model.types import Embedding, Pixels, Prediction, Prompt

if TYPE_CHECKING:
    from app.storage.bucket import Bucket
    from app.storage.sharing import Sharing

Item = TypeVar("Item")
Result = TypeVar("Result")

_FEW_CORES = 2
"""With at most this many decoder threads, these shape masks, and no worker. More than 2 were not measured."""

_CLICKS_WHILE_SEARCHING = 0.5
"""Clicks may take half as long as the batch of a search that they pass, and 50 ms; others go between two batches.
With 4, as for encodes, a client that clicks without end made a search of 6 s take 50."""


SEARCHES_AT_ONCE = 2
"""Searches that run at a time. More would not be done sooner, because all wait for one device."""
SEARCHES_OF_NEWCOMERS = 1
"""In addition, for clients that have none running."""
BATCHES_OF_A_SEARCH = 2
"""At a time: one waits while another runs, so that the device has no gap."""
SEARCH_BATCHES = BATCHES_OF_A_SEARCH * (SEARCHES_AT_ONCE + SEARCHES_OF_NEWCOMERS)
"""Of all searches that run at a time. Their queue has room for one prompt of each, even where
SAM2_MAX_WAITING_PROMPTS is less: otherwise every search would be refused."""


@dataclass(frozen=True, slots=True)
class Machinery:
    """The threads and queues of one service, connected to each other and to its metrics."""

    device: DeviceThread
    watchdog: Watchdog
    workers: Workers
    decoder: Batcher[Decodable[Any], Prediction | Shaped[Any]]
    searcher: Batcher[Decodable[Any], Prediction | Shaped[Any]]
    """Prompts of searches: clicks go before them, and on a CPU pass those that run."""
    encoder: Batcher[Pixels, Embedding]
    encodings: Encodings
    tracker: Batcher[Callable[[], Any], Any]
    """Steps of tracks, one at a time: clicks and encodes go before them, and pass one that runs."""
    sharing: "Sharing | None"
    """What several servers share; not open yet."""
    bucket: "Bucket | None"
    on_full: list[Callable[[float], int]]
    """What gives memory back where a GPU is out of it: called on the event loop with the fraction (0..1) of what is
    not in use, returns the number of what it has dropped."""

    def drain(self) -> None:
        """Reject new and waiting work."""
        for queue in (self.decoder, self.searcher, self.encoder, self.tracker):
            queue.drain()
        if self.sharing is not None:
            self.sharing.drain()

    async def disconnect(self) -> None:
        """Close the bucket and the database, when nothing uses them any more."""
        if self.bucket is not None:
            self.bucket.close()
        if self.sharing is not None:
            await self.sharing.close()


def wire(
    settings: Settings,
    metrics: Metrics,
    *,
    ready: Callable[[], Segmenter],
    loaded: Callable[[], Segmenter | None],
    store: Callable[[], EmbeddingStore],
) -> Machinery:
    """Build the machinery. Starts no thread.

    `ready` returns the model or raises a ServiceError. `loaded` returns the model in any state of the server; None
    before it is loaded. `store` returns the embedding store, which exists once the model is loaded.
    """
    sharing, per_minute = sharing_by(settings), settings.rate_pictures_per_minute
    device = DeviceThread()
    device.on_idle = return_freed_memory
    workers = Workers(settings.workers)
    on_full: list[Callable[[float], int]] = []

    async def give_back(fraction: float) -> int:
        return sum(each(fraction) for each in on_full)

    # Both are called on the device thread, but the store belongs to the event loop.
    def shed(fraction: float) -> int:
        segmenter = loaded()
        if segmenter is not None and not segmenter.shares_host_memory:
            # A GPU's memory for embeddings is taken once, and evicting frees none of it.
            return device.await_loop(lambda: give_back(fraction))
        return device.await_loop(lambda: store().shed(fraction))

    def make_room() -> bool:
        return device.await_loop(lambda: store().tiers.make_room())

    def shares_cores() -> bool:
        """Whether the workers take cores from the decoder, as on a CPU with few cores."""
        segmenter = loaded()
        return segmenter is not None and 0 < segmenter.cpu_threads <= _FEW_CORES

    def pause() -> None:
        """Let clicks pass, and let a GPU take in the pictures that it will encode next."""
        device.overtake()
        segmenter = loaded()
        if segmenter is not None and not segmenter.shares_host_memory:
            segmenter.expect(encoder.upcoming())

    def let_clicks_pass() -> None:
        device.overtake(_CLICKS_WHILE_SEARCHING)

    def within_memory(
        name: str, run: Callable[[Sequence[Item]], Sequence[Result]]
    ) -> WithinMemory[Item, Result]:
        on_full = metrics.out_of_memory.labels(name).inc
        return WithinMemory(run, make_room=make_room, shed=shed, on_full=on_full)

    def decode(jobs: Sequence[tuple[Embedding, Prompt]]) -> Sequence[Prediction]:
        return ready().decode(jobs)

    def encode(images: Sequence[Pixels]) -> Sequence[Embedding]:
        return ready().encode(images, between=pause)

    def search(
        jobs: Sequence[tuple[Embedding, Prompt]], finish: Callable[[int, Prediction], Item]
    ) -> list[Item]:
        return ready().search(jobs, finish, between=let_clicks_pass)

    def step(steps: Sequence[Callable[[], Any]]) -> list[Any]:
        return [each() for each in steps]

    decoder: Batcher[Decodable[Any], Prediction | Shaped[Any]] = Batcher(
        DecodeBatch(within_memory("decode", decode), device=device, shares_cores=shares_cores),
        name="decode",
        device=device,
        priority=0,
        max_batch=settings.batch_prompts,
        max_waiting=settings.max_waiting_prompts,
        weigh=weight,
        on_batch=partial(metrics.observe_batch, "decode"),
    )
    searcher: Batcher[Decodable[Any], Prediction | Shaped[Any]] = Batcher(
        within_memory("search", SearchBatch(search, shares_cores=shares_cores)),
        name="search",
        device=device,
        priority=1,
        max_batch=settings.batch_prompts,
        max_waiting=max(settings.max_waiting_prompts, SEARCH_BATCHES),
        by_call=True,  # `search.py` knows how long a batch may take
        on_batch=partial(metrics.observe_batch, "search"),
    )
    encoder: Batcher[Pixels, Embedding] = Batcher(
        within_memory("encode", encode),
        name="encode",
        device=device,
        priority=2,
        max_batch=settings.batch_images,
        # Encodings and Searches admit the pictures. Counted again here, where they come in another order, a picture
        # that was admitted would be refused after all.
        max_waiting=sys.maxsize,
        on_batch=partial(metrics.observe_batch, "encode"),
    )
    tracker: Batcher[Callable[[], Any], Any] = Batcher(
        # A step that does not fit changes nothing, so it may be tried again.
        within_memory("track", step),
        name="track",
        device=device,
        priority=3,
        max_batch=1,
        max_waiting=settings.max_waiting_images,
        on_batch=partial(metrics.observe_batch, "track"),
    )
    encodings = Encodings(
        encoder,
        workers,
        threads=settings.workers,
        batch=settings.batch_images,
        max_waiting=settings.max_waiting_images,
        rates=PictureRates(per_minute, sharing.rates(per_minute) if sharing is not None else None),
        max_megapixels=settings.max_image_megapixels,
        check_ready=ready,
        put=lambda content, embedding: store().put(content, embedding),
    )
    metrics.waiting_prompts.set_function(lambda: decoder.waiting + searcher.waiting)
    metrics.waiting_images.set_function(lambda: len(encodings))
    metrics.watch_readiness(ready)
    if sharing is not None:
        metrics.watch_names(lambda: not sharing.problem)
    watchdog = Watchdog(device, limit_s=settings.watchdog_s)
    bucket = bucket_by(settings, metrics)
    return Machinery(
        device, watchdog, workers, decoder, searcher, encoder, encodings, tracker, sharing, bucket, on_full
    )
