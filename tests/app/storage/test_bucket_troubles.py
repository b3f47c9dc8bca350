"""A bucket whose server hangs, drips or refuses: what is said, and for how long somebody waits."""

import io
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.settings import Settings
from app.storage import bucket as buckets
from app.storage.bucket import Bucket
from app.storage.bucket_errors import BucketError
from app.storage.embedding_objects import FEW
from app.storage.opening import CacheUrlError, check_bucket
from tests.app.storage.places import InBucket, write
from tests.object_store import ObjectStore, opened_bucket, sibling

DENIED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>User is not authorized</Message></Error>"""

PIECE = bytes(2**14)

_LISTED = (
    b"<?xml version='1.0'?><ListBucketResult><IsTruncated>%b</IsTruncated>"
    b"<Contents><Key>a</Key>%b</Contents></ListBucketResult>"
)
_SIZE, _WHEN = b"<Size>1</Size>", b"<LastModified>%b</LastModified>"
NONSENSE: dict[str, tuple[int, dict[str, str], bytes]] = {
    "redirects": (302, {"Location": "http://127.0.0.1:1/", "Content-Length": "0"}, b""),
    "is in another region": (301, {}, b"<Error><Code>PermanentRedirect</Code></Error>"),
    "says nothing": (204, {}, b""),
    "answers in part": (206, {"Content-Length": "3"}, b"abc"),
    "has another calendar": (200, {}, _LISTED % (b"false", _SIZE + _WHEN % b"never")),
    "forgets sizes": (200, {}, _LISTED % (b"false", b"")),
    "has no next page": (200, {}, _LISTED % (b"true", _SIZE + _WHEN % b"2026-01-01T00:00:00Z")),
    "counts in words": (200, {"Content-Length": "three"}, b"abc"),
}
"""Replies of proxies, and of stores that are none."""


class Troubled(BaseHTTPRequestHandler):
    """A store in the state that its server names."""

    def do_GET(self) -> None:
        """Do what the server's `trouble` says."""
        server = self.server
        assert isinstance(server, Store)
        server.asked += 1
        if server.trouble == "hangs within":
            self.send_response(200)
            self.send_header("Content-Length", "9")
            self.end_headers()
            self.wfile.write(b"1")
            self.wfile.flush()
        if server.trouble.startswith("hangs"):
            server.ended.wait(20)
            self.close_connection = True
            return
        if server.trouble == "only takes" and self.command == "PUT":
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if server.trouble in ("denies", "only takes"):
            self.send_response(403)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(DENIED)))
            self.end_headers()
            self.wfile.write(DENIED)
            return
        if server.trouble in NONSENSE:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = NONSENSE[server.trouble]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(1000 * len(PIECE)))
        self.end_headers()
        with suppress(ConnectionError):  # the client has left
            for _ in range(10 if server.trouble == "breaks off" else 1000):
                self.wfile.write(PIECE)
                if server.ended.wait(0.02):
                    break
        self.close_connection = True

    do_PUT = do_DELETE = do_GET  # noqa: N815  # the names of http.server

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Store(ThreadingHTTPServer):
    """An S3-compatible server with a trouble."""

    daemon_threads = True
    trouble = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Troubled)
        self.ended = threading.Event()
        self.asked = 0


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Such a server, named by AWS's variables; its silence is noticed soon."""
    monkeypatch.setattr(buckets, "READ_S", 0.2)
    with Store() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        yield server
        server.ended.set()
        server.shutdown()


def test_a_store_that_says_nothing_is_given_up_after_two_silences(store: Store) -> None:
    store.trouble = "hangs"
    with opened_bucket("s3://bucket") as bucket:
        with pytest.raises(BucketError, match="does not answer in time"):
            bucket.get("a")
        assert store.asked == 2
        assert bucket.is_paused
        with pytest.raises(BucketError, match="a moment ago"):
            bucket.put("a", b"1")
        assert store.asked == 2


def test_a_slow_link_is_given_up_though_it_is_never_silent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.trouble = "drips"
    monkeypatch.setattr(buckets, "SLOW_S", 0.3)
    monkeypatch.setattr(buckets, "LEAST_BYTES_PER_S", 2**40)
    with opened_bucket("s3://bucket") as bucket:
        read = io.BytesIO()
        with pytest.raises(BucketError, match="too slow: a was not read in"):
            bucket.download("a", read)
        assert len(read.getvalue()) < 2**20  # which takes more than a second


@pytest.mark.parametrize(
    ("trouble", "words"), [("breaks off", "request to http"), ("hangs within", "does not answer in time")]
)
def test_an_object_that_does_not_come_whole_is_an_error(store: Store, trouble: str, words: str) -> None:
    """As a broken one it would be removed, and without words it would be a mistake of this server."""
    store.trouble = trouble
    with opened_bucket("s3://bucket") as bucket, pytest.raises(BucketError, match=words):
        bucket.get("a")


@pytest.mark.parametrize(
    "beginning", ["http://robot:s3cr3t@127.0.0.1:1", "http://robot:s3cr3t@127.0.0.1:1?x=1"]
)
def test_a_password_in_the_endpoint_is_not_said(
    store: Store, beginning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", beginning)
    with opened_bucket("s3://bucket") as bucket, pytest.raises(BucketError, match=r"//\*\*\*@127") as error:
        bucket.get("a")
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize("trouble", NONSENSE)
def test_replies_that_are_not_those_of_a_store_are_errors_in_words(
    store: Store, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: RecursionError, KeyError, ValueError and ResponseParserError, none of which anybody expects."""
    monkeypatch.setattr(buckets, "PAUSE_S", 0.0)
    store.trouble = trouble
    with opened_bucket("s3://bucket") as bucket:
        for ask in ("get", "exists", "delete", "listing", "folders"):
            with suppress(BucketError):
                getattr(bucket, ask)("a")
        with pytest.raises(BucketError):
            bucket.probe()


def test_an_object_without_a_length_is_read(store: Store) -> None:
    """Some proxies send what they have compressed or changed in chunks."""
    store.trouble = "forgets sizes"
    with opened_bucket("s3://bucket") as bucket:
        assert bucket.get("a") == NONSENSE["forgets sizes"][2]


def test_a_refusal_says_what_is_not_allowed_and_where(store: Store, tmp_path: Path) -> None:
    store.trouble = "denies"
    with pytest.raises(
        CacheUrlError, match="credentials may not write objects of the bucket 'bucket' at http"
    ):
        check_bucket(Settings(cache_url="s3://bucket/x", cache_dir=str(tmp_path)))
    with opened_bucket("s3://bucket") as bucket:
        with pytest.raises(BucketError, match="may not read objects"):
            bucket.get("a")
        assert not bucket.is_paused  # other objects may be allowed


def test_the_probe_names_the_first_of_two_refusals(store: Store, tmp_path: Path) -> None:
    store.trouble = "only takes"
    with pytest.raises(CacheUrlError, match="may not read objects"):
        check_bucket(Settings(cache_url="s3://bucket/x", cache_dir=str(tmp_path)))


@pytest.fixture
def in_bucket(object_store: ObjectStore, _bucket: Bucket) -> Iterator[InBucket]:
    """A place in a bucket of its own."""
    url = object_store.new_bucket()
    place = InBucket(sibling(_bucket, url), lambda: object_store.files(url), object_store.grow_old)
    yield place
    place.close()


def test_what_is_there_is_known_while_the_bucket_is_listed(
    in_bucket: InBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing of many objects takes seconds, and clients ask for their pictures meanwhile."""
    files, contents = in_bucket.kept(), {f"{i:064x}" for i in range(FEW + 2)}
    for content in contents:
        write(files, content)
    listing, seen = in_bucket.bucket.listing, list[set[str]]()

    def watched(beginning: str) -> object:
        seen.append(files.held(contents))
        return listing(beginning)

    monkeypatch.setattr(in_bucket.bucket, "listing", watched)
    files.trim()
    assert seen == [contents, contents]
    assert files.held(contents) == contents


def test_many_pictures_that_are_gone_do_not_have_the_bucket_listed_each_time(
    in_bucket: InBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list[str]()
    listing = in_bucket.bucket.listing
    monkeypatch.setattr(
        in_bucket.bucket, "listing", lambda beginning: listed.append(beginning) or listing(beginning)
    )
    files = in_bucket.kept()
    for _ in range(3):
        assert files.held({f"{i:064x}" for i in range(FEW + 2)}) == set()
    assert listed == ["uploads/", "embeddings/"]


def test_of_many_pictures_a_few_that_another_server_has_written_are_found_without_a_listing(
    in_bucket: InBucket,
) -> None:
    ours, theirs = in_bucket.kept(), in_bucket.kept()
    contents = [f"{i:064x}" for i in range(FEW + 2)]
    for content in contents[:-2]:
        write(ours, content)
    ours.trim()
    write(theirs, contents[-1])
    assert ours.held(contents) == {*contents[:-2], contents[-1]}
