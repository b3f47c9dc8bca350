"""What happens where the device has no room for an embedding: the coldest one goes, and only then somebody waits.

Device memory is a fixed number of places. The store keeps no more embeddings than that, but one that it has dropped
holds its place for as long as prompts for it wait. Knows nothing of tensors and of HTTP.
"""

from collections.abc import Callable
from typing import TypeVar

from app.batching import Batcher, Ran
from app.errors import DeviceFull
from app.store import EmbeddingStore
from model.errors import NoFreeSlot
from model.types import Embedding, Pixels

T = TypeVar("T")


def with_room(run: Callable[[], T]) -> T:
    """Run a batch, on the device thread. Raises DeviceFull, which says to come again, where it has no room."""
    try:
        return run()
    except NoFreeSlot as error:
        raise DeviceFull(f"{error} Try again; SAM2_CACHE_MIB sets how many there are.") from error


async def encode_with_room(
    image: Pixels, encoder: Batcher[Pixels, Embedding], store: EmbeddingStore
) -> Ran[Embedding]:
    """Encode, as long as it takes; while there is no room, the embedding that was unused longest gives way.

    Raises DeviceFull where nothing is left to give way, and what `Batcher.submit` raises.
    """
    while True:
        try:
            return await encoder.submit(image, deadline_s=float("inf"))
        except DeviceFull:
            if not store.evict_coldest():
                raise
