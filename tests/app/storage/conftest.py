"""Fixtures for tests of the storage: an S3-compatible server, a database, and places for embeddings."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.storage.bucket import Bucket
from tests.app.storage.places import Folder, InBucket, Place
from tests.object_store import ObjectStore, running_store, sibling
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def _object_store() -> Iterator[ObjectStore]:
    with running_store() as store:
        yield store


@pytest.fixture(scope="session")
def _bucket(_object_store: ObjectStore) -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _object_store.environment().items():
            patch.setenv(name, value)
        bucket = Bucket("s3://none", on_request=lambda *_: None)
    yield bucket
    bucket.close()


@pytest.fixture
def object_store(_object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A server that runs, named by AWS's variables. A test may kill it."""
    _object_store.start()
    for name, value in _object_store.environment().items():
        monkeypatch.setenv(name, value)
    return _object_store


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """A new database in PostgreSQL."""
    return postgres.new_database()


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Run a test twice: with a folder, and with a bucket."""
    if request.param == "folder":
        yield Folder(tmp_path / "cache")
        return
    store: ObjectStore = request.getfixturevalue("object_store")
    url = store.new_bucket()
    place = InBucket(
        sibling(request.getfixturevalue("_bucket"), url), lambda: store.files(url), store.grow_old
    )
    yield place
    place.close()
