"""Embeds the pictures of tasks: finds where each one lies, fetches it unless that was done before, embeds it.

Does not know about prompts and answers.
"""

import base64
import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple, TypeVar

import httpx

from app.codecs.base64_text import Base64Error, decode_base64_or_data_url
from app.codecs.long_text import Pieces
from app.doors.label_studio.bodies import SetupBody, is_inline
from app.doors.label_studio.server import LabelStudioServer
from app.errors import ImageNotFound, ValidationFailed
from app.routes.body_budget import BodyBudget
from app.routes.field_errors import invalid
from app.routes.remote_pictures import RemotePictures
from app.routes.uploads import check_size
from app.service.segmentation import Embedded, Segmentation
from app.telemetry.stages import StageTimes

T = TypeVar("T")

_KNOWN_S = 600.0
"""How long an address stands for the picture that was fetched from it. After that it is fetched again, which costs
no embedding if it is still the same."""
_MOST_KNOWN = 20_000
_MOST_SETUPS = 1000


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a picture is fetched: the client's tenant and share, and the project in Label Studio."""

    tenant: str
    share: str
    project: str


class Source(NamedTuple):
    """A picture of a task. A tuple, because thousands are compared on the event loop."""

    task: str
    address: str | Pieces

    @property
    def is_inline(self) -> bool:
        """See bodies.py."""
        return is_inline(self.address)

    @property
    def nbytes(self) -> int:
        """Memory, of one that is not inline."""
        return sys.getsizeof(self.task) + sys.getsizeof(self.address)


class _Recent(OrderedDict[tuple[str, ...], T]):
    """Remembers the last `most` values."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def remember(self, key: tuple[str, ...], value: T) -> None:
        """Store a value as the newest, and forget the oldest if there are too many."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)


class TaskPictures:
    """The pictures of all projects. `server` is the Label Studio of the settings, if they name one.

    Where they name none, a project's pictures lie where /setup said, which anybody may call. Addresses of that, and
    all others in tasks, are fetched by `remote` within its rules.
    """

    def __init__(
        self,
        service: Segmentation,
        budget: BodyBudget,
        *,
        server: LabelStudioServer | None,
        remote: RemotePictures,
    ) -> None:
        self._service, self._budget = service, budget
        self._server, self._remote = server, remote
        self._setups = _Recent[SetupBody](_MOST_SETUPS)
        self._known = _Recent[tuple[str, float]](_MOST_KNOWN)

    def set_up(self, caller: Caller, setup: SetupBody) -> None:
        """Remember what Label Studio said about a project."""
        self._setups.remember((caller.tenant, caller.project), setup)

    async def embed(self, source: Source, caller: Caller, times: StageTimes) -> Embedded:
        """Return a picture's embedding. Raises a ServiceError."""
        is_inline = source.is_inline
        # Addresses of kilobytes would be kept as what they hash to.
        address = (
            ""
            if is_inline
            else hashlib.sha256(str(source.address).encode("utf-8", "surrogatepass")).hexdigest()
        )
        key = (caller.tenant, caller.project, source.task, address)
        image_id, until = self._known.get(key, ("", 0.0))
        if monotonic() < until and not is_inline:
            try:
                return await self._service.recall(
                    image_id, tenant=caller.tenant, times=times, share=caller.share
                )
            except ImageNotFound:
                self._known.pop(key, None)  # another request may have found so too
        with self._budget.holding(caller.share) as arrived:
            if is_inline:
                data = await self._decoded(source.address, caller)
            else:
                with times.during("fetch"):
                    data = await self._fetch(source, caller, arrived)
            embedded = await self._service.embed(
                data,
                tenant=caller.tenant,
                image_id=None,
                replace=False,
                times=times,
                share=caller.share,
                needs_name=False,
            )
        if not is_inline:
            self._known.remember(key, (embedded.image_id, monotonic() + _KNOWN_S))
        return embedded

    async def _decoded(self, address: str | Pieces, caller: Caller) -> bytes:
        def decode() -> bytes:
            try:
                data = decode_base64_or_data_url(address)
            except Base64Error as error:
                raise invalid("data", f"the picture {error}") from error
            check_size(data, max_bytes=self._service.settings.max_upload_mib * 2**20)
            return data

        return await self._service.work(decode, share=caller.share)

    async def _fetch(self, source: Source, caller: Caller, arrived: Callable[[int], None]) -> bytes:
        address = _resolved(source)
        setup = self._setups.get((caller.tenant, caller.project), SetupBody())
        token = setup.access_token or ""
        is_relative = address.startswith("/") and not address.startswith("//")
        if self._server is not None:
            if is_relative or self._server.is_own(_parsed(address)):
                return await self._server.fetch(address, token=token, arrived=arrived)
            return await self._remote.fetch(address, arrived=arrived)
        if not is_relative:
            return await self._remote.fetch(address, arrived=arrived)
        if not self._remote.allowed or not setup.hostname:
            raise ValidationFailed(
                "The picture lies in Label Studio. Set SAM2_LABEL_STUDIO_URL to its address as this server reaches "
                f"it; it calls itself {setup.hostname[:200]!r}."
            )
        return await self._remote.fetch(
            setup.hostname.rstrip("/") + address,
            arrived=arrived,
            authorization=f"Token {token}" if token else None,
        )


def _resolved(source: Source) -> str:
    """Return an address that can be fetched: those of storages (s3, gs, ...) only Label Studio can open."""
    address = str(source.address)
    scheme, separator, _ = address.partition("://")
    if not separator or scheme.lower() in ("http", "https"):
        return address
    if not source.task.isdecimal():
        raise invalid("id", "the task has no number, which is needed to find its picture in a storage")
    uri = base64.urlsafe_b64encode(address.encode()).decode("ascii")
    return f"/tasks/{source.task}/resolve/?fileuri={uri}"


def _parsed(address: str) -> httpx.URL:
    try:
        return httpx.URL(address)
    except (httpx.InvalidURL, ValueError) as error:
        raise invalid("data", "the picture's address is not a URL") from error
