"""A bucket: what is written is read by everybody, and what is wrong is said in words."""

import io
import time
from pathlib import Path

import pytest

from app.__main__ import main
from app.settings import Settings
from app.storage import bucket as buckets
from app.storage.bucket import Bucket
from app.storage.bucket_errors import BucketError
from app.storage.opening import CacheUrlError, bucket_by, check_bucket
from app.telemetry.metrics import Metrics
from tests.object_store import ObjectStore, opened_bucket
from tests.server import free_port


def test_an_object_is_written_read_listed_and_deleted_below_the_prefix(object_store: ObjectStore) -> None:
    url = object_store.new_bucket()
    data = bytes(range(256)) * 20_000  # more than one chunk
    with opened_bucket(url) as bucket, opened_bucket(url + "/deeper") as deeper:
        assert bucket.get("a/b") is None
        assert not bucket.exists("a/b")
        bucket.put("a/b", data)
        assert bucket.get("a/b") == data
        assert bucket.exists("a/b")
        copy = io.BytesIO()
        assert bucket.download("a/b", copy)
        assert copy.getvalue() == data
        assert object_store.keys(url) == ["a/b"]
        deeper.put("c", b"2")
        bucket.put("a/d/e", b"1")
        [first, *_] = bucket.listing("a/")
        assert (first.key, first.size) == ("a/b", len(data))
        assert time.time() - 60 < first.written < time.time() + 5
        assert {each.key for each in bucket.listing("")} == {"a/b", "a/d/e", "deeper/c"}
        assert [each.key for each in deeper.listing("")] == ["c"]
        assert sorted(bucket.folders("")) == ["a/", "deeper/"]
        bucket.delete("a/b")
        bucket.delete("a/b")  # it is gone already
        assert bucket.get("a/b") is None


def test_a_listing_has_every_page(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    url = object_store.new_bucket()
    with opened_bucket(url) as bucket:
        names = {f"many/{i}" for i in range(7)}
        for name in names:
            bucket.put(name, b"1")
        list_objects = bucket._client.list_objects_v2
        monkeypatch.setattr(
            bucket._client, "list_objects_v2", lambda **asked: list_objects(MaxKeys=3, **asked)
        )
        assert {each.key for each in bucket.listing("many/")} == names


def test_the_probe_leaves_nothing(object_store: ObjectStore, tmp_path: Path) -> None:
    url = object_store.new_bucket()
    check_bucket(Settings(cache_url=url, cache_dir=str(tmp_path)))
    assert object_store.keys(url) == []
    check_bucket(Settings())


@pytest.mark.parametrize(
    ("variables", "bucket", "words"),
    [
        ({}, "no-such-bucket", "there is no bucket 'no-such-bucket' at http://127.0.0.1:"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "", "does not accept the credentials (SignatureDoesNotMatch)"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "", "does not accept the credentials (InvalidAccessKeyId)"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:{closed}"},
            "",
            "http://127.0.0.1:{closed} cannot be reached",
        ),
        ({"AWS_ENDPOINT_URL": "nonsense"}, "", "AWS's variables or files cannot be used: Invalid endpoint"),
        ({"AWS_PROFILE": "nobody"}, "", "nobody"),
    ],
    ids=["no bucket", "wrong secret", "wrong key", "unreachable", "no address", "no profile"],
)
def test_the_command_says_what_is_wrong_with_the_bucket_and_ends(
    variables: dict[str, str],
    bucket: str,
    words: str,
    object_store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    closed = str(free_port())
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(closed=closed))
    url = f"s3://{bucket}/x" if bucket else object_store.new_bucket()
    arguments = ["--cache-url", url, "--cache-dir", str(tmp_path), "--checkpoint", "untrained", "--port", "0"]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert f"SAM2_CACHE_URL={url}: " in said
    assert words.format(closed=closed) in said
    assert "secret" not in said
    assert "Traceback" not in said


def test_access_that_is_denied_names_what_is_not_allowed() -> None:
    from botocore.exceptions import ClientError

    from app.storage.bucket_errors import is_outage, words_of

    def reply(code: str, status: int) -> ClientError:
        return ClientError(
            {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Op"
        )

    def words(error: Exception) -> str:
        return words_of(error, bucket="b", endpoint="https://s3", to="delete")

    assert words(reply("AccessDenied", 403)) == (
        "access denied: the credentials may not delete objects of the bucket 'b' at https://s3"
    )
    assert "another region" in words(reply("PermanentRedirect", 301))
    assert "clock" in words(reply("RequestTimeTooSkewed", 403))
    assert words(reply("SlowDown", 503)) == "https://s3 answers 503 SlowDown: m"
    assert [
        is_outage(reply(code, status)) for code, status in (("SlowDown", 503), ("AccessDenied", 403))
    ] == [
        True,
        False,
    ]


def test_a_store_that_is_gone_is_not_asked_again_at_once_and_then_is(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    bucket = Bucket(
        object_store.new_bucket(), on_request=lambda what, _, succeeded: seen.append((what, succeeded))
    )
    bucket.put("a", b"1")
    object_store.kill()
    with pytest.raises(BucketError, match="cannot be reached"):
        bucket.get("a")
    assert bucket.is_paused
    with pytest.raises(BucketError, match="a moment ago"):
        bucket.get("a")
    assert seen == [("write", True), ("read", False)]  # the second was not sent
    object_store.start()
    monkeypatch.setattr(bucket, "_paused_until", 0.0)
    assert bucket.get("a") == b"1"
    bucket.close()


def test_a_download_that_drips_ends(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened_bucket(object_store.new_bucket()) as bucket:
        bucket.put("a", b"1" * 100)
        monkeypatch.setattr(buckets, "SLOW_S", -1.0)
        with pytest.raises(BucketError, match="too slow"):
            bucket.get("a")


def test_a_missing_library_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "app.storage.bucket")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(CacheUrlError, match=r"needs the extra 's3': pip install '\.\[s3\]'"):
        bucket_by(Settings(cache_url="s3://bucket", cache_dir=str(tmp_path)), Metrics())
