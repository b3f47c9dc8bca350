"""Objects of one S3-compatible bucket, under a prefix. A failure is a BucketError that says in words what is wrong.

Any thread may call it. Endpoint, region and credentials come from AWS's own variables and files. Imported only
where SAM2_CACHE_URL is set. Does not know what the objects are.
"""

import io
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from app.storage.bucket_errors import BucketError, is_missing, is_outage, words_of, words_of_nonsense
from app.storage.disk_trouble import DiskTrouble

T = TypeVar("T")

CONNECT_S = 2.0
READ_S = 5.0
"""Longest silence of the store, in seconds, in each of two attempts."""
SLOW_S = 20.0
"""Longest time of one download, however steadily it drips. A video has more, see `download`."""
LEAST_BYTES_PER_S = 2**20
PAUSE_S = 2.0
"""Seconds after an outage during which requests fail at once: threads must not all wait for one that is gone."""
CONNECTIONS = 24

_CHUNK = 2**16
"""Bytes read at a time: the time is looked at between two, and a slow link needs seconds for each."""

logging.getLogger("botocore").setLevel(logging.WARNING)  # else it says at each start where credentials are


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a listing."""

    key: str
    size: int
    written: float
    """Seconds since 1970."""


class Bucket:
    """A bucket. Keys are relative to the URL's prefix. Every method but `close` may raise BucketError."""

    def __init__(self, url: str, *, on_request: Callable[[str, float, bool], None]) -> None:
        """Prepare requests to `s3://bucket/prefix`; nothing is sent yet.

        `on_request` gets the operation of each request, its seconds, and whether it succeeded, on any thread.
        """
        self.url = url
        self.trouble = DiskTrouble(url, setting="SAM2_CACHE_URL")
        """For all who use the bucket: an outage is one trouble, not one for each of them."""
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._on_request = on_request
        self._lock = threading.Lock()
        self._paused_until, self._why = 0.0, ""
        try:
            self._client = _client()
        except (BotoCoreError, ValueError) as error:
            raise BucketError(words_of(error, bucket=self._bucket, endpoint="S3")) from error

    @property
    def is_paused(self) -> bool:
        """Whether requests fail at once, because the store could not be reached a moment ago."""
        return monotonic() < self._paused_until

    def get(self, key: str) -> bytes | None:
        """Return an object's bytes, as many as were written; None if there is none."""
        file = io.BytesIO()
        return file.getvalue() if self.download(key, file) else None

    def download(self, key: str, file: BinaryIO) -> bool:
        """Copy an object into a file. Returns whether it exists. Has SLOW_S, and a second for each MiB."""

        def read(client: Any) -> bool:
            began = monotonic()
            reply = client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            within = SLOW_S + reply.get("ContentLength", 0) / LEAST_BYTES_PER_S  # a proxy may leave it out
            with closing(reply["Body"]) as body:  # entered itself, it is a stream that checks nothing
                while chunk := body.read(_CHUNK):  # raises if bytes are missing at the end
                    file.write(chunk)
                    if monotonic() - began > within:
                        raise BucketError(
                            f"{self._endpoint} is too slow: {key} was not read in {within:.0f} s"
                        )
            return True

        return self._ask("read", read, missing=False)

    def put(self, key: str, data: bytes) -> None:
        """Write an object, which appears whole."""
        self._ask(
            "write",
            lambda client: client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data),
        )

    def exists(self, key: str) -> bool:
        """Whether there is an object."""

        def head(client: Any) -> bool:
            client.head_object(Bucket=self._bucket, Key=self._prefix + key)
            return True

        return self._ask("look up", head, missing=False)

    def delete(self, key: str) -> None:
        """Remove an object, if there is one."""
        self._ask(
            "delete",
            lambda client: client.delete_object(Bucket=self._bucket, Key=self._prefix + key),
            missing=None,
        )

    def listing(self, beginning: str) -> list[StoredObject]:
        """Return the objects whose keys begin like this, those written first at the front."""
        try:
            found = [
                StoredObject(
                    each["Key"].removeprefix(self._prefix), each["Size"], each["LastModified"].timestamp()
                )
                for page in self._pages(beginning)
                for each in page.get("Contents", ())
            ]
        except KeyError as error:
            raise BucketError(f"{self._endpoint} lists objects without {error}") from error
        return sorted(found, key=lambda each: each.written)

    def folders(self, beginning: str) -> list[str]:
        """Return the distinct beginnings of keys up to the next slash, which they end with."""
        return [
            each["Prefix"].removeprefix(self._prefix)
            for page in self._pages(beginning, Delimiter="/")
            for each in page.get("CommonPrefixes", ())
        ]

    def probe(self) -> None:
        """Write, read, list and delete a small object. The error says what is wrong."""
        key, data = f"probe-{uuid.uuid4().hex}", b"Written by sam2-serve at its start, and deleted at once."
        self.put(key, data)
        try:
            if (found := self.get(key)) != data:
                raise BucketError(
                    f"{self._endpoint} returns other bytes than were written: "
                    f"{'none' if found is None else len(found)} for {len(data)}"
                )
            self.listing(key)
        except BucketError:
            with suppress(BucketError):  # the first one says more
                self.delete(key)
            raise
        self.delete(key)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def _endpoint(self) -> str:
        return str(self._client.meta.endpoint_url)

    def _pages(self, beginning: str, **more: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            asked = {"Bucket": self._bucket, "Prefix": self._prefix + beginning, **more, **token}
            page = self._ask("list", lambda client, asked=asked: client.list_objects_v2(**asked))
            yield page
            if not page.get("IsTruncated"):
                return
            if "NextContinuationToken" not in page:
                raise BucketError(
                    f"{self._endpoint} lists some objects, and does not say how to ask for more"
                )
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _ask(self, operation: str, ask: Callable[..., T], **missing: T) -> T:
        """Send a request. Where there is no object, return `missing`, if it is given."""
        if self.is_paused:
            raise BucketError(f"{self._why} (a moment ago)")
        began, succeeded = monotonic(), False
        try:
            result = ask(self._client)
            succeeded = True
        except (BotoCoreError, ClientError) as error:
            if "missing" in missing and is_missing(error):
                succeeded = True
                return missing["missing"]
            why = words_of(error, bucket=self._bucket, endpoint=self._endpoint, to=operation)
            if is_outage(error):
                self._pause(why)
            raise BucketError(why) from error
        except OSError:  # what the callers raise: a download that is too slow, a disk that is full
            raise
        except Exception as error:  # boto3 has no common class for replies that it does not understand
            self._pause(why := words_of_nonsense(error, endpoint=self._endpoint))
            raise BucketError(why) from error
        finally:
            self._on_request(operation, monotonic() - began, succeeded)
        return result

    def _pause(self, why: str) -> None:
        with self._lock:
            self._paused_until, self._why = monotonic() + PAUSE_S, why


def _client() -> Any:
    session = boto3.session.Session()

    def make(**s3: str) -> Any:
        config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"total_max_attempts": 2, "mode": "standard"},
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            # Not all stores know the newer checksums, and what is read is checked anyway.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3=s3 or None,
        )
        return session.client("s3", config=config)

    client = make()
    if ".amazonaws.com" in (urlsplit(client.meta.endpoint_url).hostname or ""):
        return client
    client.close()
    return make(addressing_style="path")  # minio:9000 has no names such as bucket.minio
