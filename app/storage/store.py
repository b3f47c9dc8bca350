"""Stored images: names that tenants give to contents, and the embeddings of these contents in their tiers.

Embeddings are stored by content: the SHA-256 of the uploaded bytes and the tenant (names.py). An image id is a
tenant's name for a content, so two names of one picture share one embedding. A name outlives its embedding.
Belongs to the event loop. Does not know about HTTP or how embeddings are made.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import ImageIdConflict, ImageNotFound
from app.storage.arriving import arrived
from app.storage.claims import Claim, Claims
from app.storage.disk_trouble import DiskTrouble
from app.storage.kept import Kept
from app.storage.pages import place_in
from app.storage.register_file import ImageName, Key
from app.storage.registers import register_in
from app.storage.tiers import DISK, Tiers
from app.storage.upkeep import Upkeep
from model.types import Embedding

if TYPE_CHECKING:  # they import boto3 and psycopg
    from app.storage.bucket import Bucket
    from app.storage.sharing import Sharing

UNNAMED_S = 60.0
"""Seconds that an embedding without a name stays in memory: its request is about to give it one."""

_LOOKED_UP_AT_ONCE = 256
"""Names looked up on the event loop at a time: 2 ms."""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much a store may use, and where."""

    device_bytes: int
    host_bytes: int
    """0: no host tier between device and disk."""
    disk_bytes: int
    folder: Path | None
    """Where names are kept, and embeddings without a bucket. None: nothing is stored on disk."""
    ttl_s: float
    """Names are removed this many seconds after they were given; 0: never."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """Information about a stored picture under one of its names."""

    image_id: str
    content: str
    height: int
    width: int
    nbytes: int
    created: float
    """Seconds since 1970, when this name was given."""
    used: float
    """Seconds since 1970, when the embedding was last used under this name."""
    tiers: tuple[str, ...]
    """Those of device, host and disk that hold the embedding; empty if the picture must be embedded again."""
    model: str
    fingerprint: str


class EmbeddingStore:
    """Combines register and tiers. Methods that take a name also take its tenant, who sees only its own names.

    `adopt` moves an embedding to the device. `on_hit` and `on_evict` get the name of the tier.
    All three are called on any thread.
    """

    def __init__(
        self,
        limits: StoreLimits,
        *,
        model: str,
        fingerprint: str,
        adopt: Callable[[Embedding], Awaitable[Embedding]],
        on_hit: Callable[[str], None],
        on_evict: Callable[[str], None],
        on_disk_failure: Callable[[], None] = lambda: None,
        bucket: "Bucket | None" = None,
        sharing: "Sharing | None" = None,
    ) -> None:
        """Create it; `open` opens the register. With `sharing`, names are those of all servers."""
        self._model, self._fingerprint, folder = model, fingerprint, limits.folder
        trouble = DiskTrouble(folder, on_failure=on_disk_failure) if folder is not None else None
        self._kept = kept = Kept.in_place(
            bucket,
            folder,
            fingerprint=fingerprint,
            capacity_bytes=limits.disk_bytes,
            trouble=trouble,
            on_evict=lambda: on_evict(DISK),
        )
        self._register = register_in(
            sharing,
            "image",
            folder,
            ttl_s=limits.ttl_s,
            trouble=trouble,
            on_unnamed=kept.files.remove if kept.files is not None else lambda _: None,
        )
        self.tiers = Tiers(
            device_bytes=limits.device_bytes,
            host_bytes=limits.host_bytes,
            files=kept.files,
            trouble=kept.trouble,
            adopt=adopt,
            while_named=self._register.while_named,
            on_hit=on_hit,
            on_evict=on_evict,
        )
        self._claims = Claims(ImageNotFound.deleted_meanwhile)
        self._has_files = kept.files is not None
        self._unnamed: dict[str, float] = {}  # when they were added, oldest first
        self._upkeep = Upkeep(self.tend, "the stored images")

    async def open(self) -> None:
        """Open the register and start the maintenance task."""
        await self._register.open()
        self._kept.spare_named(self._register.while_named)
        self._upkeep.start()

    async def close(self) -> None:
        """Stop the maintenance, write what is pending, and close."""
        if await self._upkeep.stop():
            await self.tiers.close()
            await self._kept.close()
            await self._register.close()

    async def look_up(self, image_id: str, *, tenant: str) -> ImageName:
        """Look up a name, which counts as a use of it. At once if this server knows it. Raises ImageNotFound."""
        name = await self._find(image_id, tenant=tenant)
        if name is None:
            raise ImageNotFound.for_id(image_id)
        self._register.use(name)
        return name

    async def find(self, content: str) -> Embedding | None:
        """Return the embedding of a content, on the device, or None. At once if it is already there."""
        return await self.tiers.find(content)

    async def find_named(self, name: ImageName) -> Embedding | None:
        """As `find`. One that another server has named a moment ago and not written yet is waited for."""
        return await (
            arrived(name, self.find, now=self._register.now) if self._has_files else self.find(name.content)
        )

    async def find_upload(self, content: str) -> bytes | None:
        """Return a picture's file; None if it was not kept. Raises NamesUnreachable if it may come yet."""
        if (upload := await self.tiers.find_upload(content)) is None and self._has_files:
            await self._register.check_arrived(content)
        return upload

    def put(self, content: str, embedding: Embedding) -> None:
        """Hold an embedding in memory. It needs a name before a client can use it."""
        self._unnamed[content] = time.monotonic()
        self.tiers.put(content, embedding)

    async def shed(self, fraction: float) -> int:
        """Evict the coldest embeddings, at least `fraction` (0..1) of the device's bytes. Returns their number."""
        return await self.tiers.shed(fraction)

    def claim(self, image_id: str, *, tenant: str) -> AbstractContextManager[Claim]:
        """Announce that a name will be given once its picture is embedded, so that `delete` finds it."""
        return self._claims.claim(image_id, tenant=tenant)

    async def check_name(self, image_id: str, content: str, *, tenant: str, replace: bool) -> None:
        """Raise ImageIdConflict if the id belongs to another content and may not be replaced.

        With a register that servers share, raise NamesUnreachable if a new name cannot be given now.
        """
        name = self._register.find(image_id, tenant=tenant)
        # A name that another server has deleted a moment ago must be given anew.
        await self._register.catch_up(waits=name is None or name.content != content)
        self._check_known(image_id, content, tenant=tenant, replace=replace)

    async def keep(
        self, claim: Claim, content: str, embedding: Embedding, *, replace: bool, upload: bytes | None
    ) -> None:
        """Give a claimed name to a content, hold its embedding, and have it written to the disk within a second.

        Raises ImageIdConflict like `check_name`, and ImageNotFound if the claim was deleted. If the name already
        belongs to this content, it keeps its age.
        """
        try:
            claim.check()
            self._check_known(claim.name, content, tenant=claim.tenant, replace=replace)
            if not self.tiers.holds(content):
                self.put(content, embedding)  # it was evicted before its request got a reply
            name = self._register.find(claim.name, tenant=claim.tenant)
            if name is not None and name.content == content:
                self._register.use(name)
            else:
                await self._name(claim, content, embedding, replace=replace)
        except (ImageNotFound, ImageIdConflict):
            self._drop_unnamed(content)
            raise
        self._unnamed.pop(content, None)
        # It may have been evicted, or dropped with another name, while this one was given.
        if not self.tiers.holds(content) and self._register.is_named(content):
            self.tiers.put(content, embedding)
        await self.tiers.save(content, embedding, upload=upload)

    async def delete(self, image_id: str, *, tenant: str) -> None:
        """Remove a name, even one that is about to be given, and all data of a content that has no other name."""
        gone = await self._delete(image_id, tenant=tenant)
        await self._kept.wait_removed(gone)

    async def delete_all(self, image_ids: Sequence[str], *, tenant: str) -> None:
        """Delete those names that are given or about to be given."""
        await self._register.catch_up()
        for at in range(0, len(image_ids), _LOOKED_UP_AT_ONCE):
            keys = [Key(tenant, each) for each in image_ids[at : at + _LOOKED_UP_AT_ONCE]]
            there = [
                key.image_id
                for key in keys
                if key in self._claims or self._register.find(key.image_id, tenant=tenant) is not None
            ]
            gone = await asyncio.gather(*(self._delete(each, tenant=tenant) for each in there))
            await self._kept.wait_removed(frozenset[str]().union(*gone))
            await asyncio.sleep(0)

    async def describe(self, image_id: str, *, tenant: str) -> ImageRecord:
        """Return information about a picture. Does not count as a use. Raises ImageNotFound."""
        await self._register.catch_up(waits=False)  # it may have been replaced or deleted a moment ago
        name = await self._find(image_id, tenant=tenant)
        if name is None:
            raise ImageNotFound.for_id(image_id)
        return (await self._records([name]))[0]

    async def describe_all(self, *, tenant: str, limit: int, after: str | None) -> list[ImageRecord]:
        """Return at most `limit` pictures that follow `after`, newest name first. Raises ImageNotFound."""
        await self._register.catch_up(waits=False)  # a client lists what another server has just taken in
        last = None if after is None else place_in(after) or await self._find(after, tenant=tenant)
        if after is not None and last is None:
            raise ImageNotFound(f"after={after!r} names no stored picture. Start again without it.")
        return await self._records(self._register.newest(tenant=tenant, limit=limit, after=last))

    async def tend(self) -> None:
        """Do the periodic maintenance, which no request does."""
        is_lost = await self._kept.was_lost()
        if await self._register.tend() or is_lost:
            self.tiers.save_all()
        for content in await self._register.expire():
            self._drop_unnamed(content)
        if await self._register.changed_elsewhere():
            for content in await self._register.unnamed(self.tiers.in_memory() - self._unnamed.keys()):
                self._drop_unnamed(content)
        now = time.monotonic()
        for content in [each for each, since in self._unnamed.items() if since < now - UNNAMED_S]:
            self._drop_unnamed(content)
        self._kept.retry_removals()
        await self.tiers.tend()

    async def _delete(self, image_id: str, *, tenant: str) -> frozenset[str]:
        """Remove a name. Returns the contents that lost their last name by it."""
        self._claims.delete(image_id, tenant=tenant)
        gone = await self._register.remove(image_id, tenant=tenant)
        for content in gone:
            self._drop_unnamed(content)
        return gone

    async def _find(self, image_id: str, *, tenant: str) -> ImageName | None:
        """Look up a name, among those that other servers have given a moment ago too."""
        name = self._register.find(image_id, tenant=tenant)
        if name is None:
            await self._register.catch_up()
            name = self._register.find(image_id, tenant=tenant)
        return name

    def _check_known(self, image_id: str, content: str, *, tenant: str, replace: bool) -> None:
        name = self._register.find(image_id, tenant=tenant)
        if name is not None and name.content != content and not replace:
            raise ImageIdConflict.for_id(image_id)

    async def _name(self, claim: Claim, content: str, embedding: Embedding, *, replace: bool) -> None:
        now = self._register.now()
        size = embedding.height, embedding.width, embedding.nbytes
        name = ImageName(claim.tenant, claim.name, content, *size, created=now, used=now)
        for unnamed in await self._register.add(name, replace=replace):
            self._drop_unnamed(unnamed)

    def _drop_unnamed(self, content: str) -> None:
        """Release a content, unless it has got a name in the meantime."""
        self._unnamed.pop(content, None)
        if not self._register.is_named(content):
            self.tiers.drop(content)

    async def _records(self, names: list[ImageName]) -> list[ImageRecord]:
        where = await self.tiers.where({name.content for name in names})
        return [
            ImageRecord(
                image_id=name.image_id,
                content=name.content,
                height=name.height,
                width=name.width,
                nbytes=name.nbytes,
                created=name.created,
                used=self._register.used(name),
                tiers=where[name.content],
                model=self._model,
                fingerprint=self._fingerprint,
            )
            for name in names
        ]
