"""Embeddings and uploads in a folder or a bucket: whole or missing, of one model, within the capacity."""

import hashlib
from concurrent.futures import wait
from pathlib import Path

import pytest

from app.storage.kept_embeddings import KeptEmbeddings
from tests.app.storage.places import InBucket, Place, embedding, write
from tests.fakes import LONG_S

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def write_upload(files: KeptEmbeddings, upload: bytes) -> str:
    """Write an upload. Returns its name."""
    name = hashlib.sha256(upload).hexdigest()
    made = files.write_upload_beside(name, upload)
    assert made is not None
    made.appear()
    return name


def file_of(place: Place, content: str, *, model: str = "1") -> Path:
    """Return the file of an embedding or an upload."""
    [path] = [path for path in place.files() if content in path.name and path.parent.name[:1] in (model, "u")]
    return path


def removed(place: Place) -> None:
    """Wait until what was to be removed from a bucket is."""
    if isinstance(place, InBucket):
        for each in place.made:
            wait(list(each.removals._queued.values()), LONG_S)


def test_what_was_written_is_read_and_for_nobody_else(place: Place) -> None:
    files = place.kept()
    assert files.read(A) is None
    write(files, A, 7.0)
    for each in (files, place.kept()):  # another server has not listed anything yet
        found = each.read(A)
        assert found is not None
        assert (found.height, found.width, float(found.image_rows[0, 0])) == (40, 60, 7.0)
        assert each.held([A, B]) == {A}
        assert each.write_beside(A, embedding()) is None  # it already exists
    assert len(place.files()) == 1


def test_what_is_discarded_is_not_there(place: Place) -> None:
    files = place.kept()
    made = files.write_beside(A, embedding())
    assert made is not None
    made.discard()
    assert files.read(A) is None
    assert place.files() == []


def test_many_are_looked_up_at_once(place: Place) -> None:
    files, contents = place.kept(), [f"{i:064x}" for i in range(40)]
    for content in contents[:20]:
        write(files, content)
    assert files.held(contents) == set(contents[:20])
    assert place.kept().held(contents) == set(contents[:20])


@pytest.mark.parametrize(
    "damage", ["torn", "empty", "altered", "foreign", "of another picture", "of another model"]
)
def test_a_file_that_is_not_what_it_should_be_is_a_miss_logged_and_removed(
    damage: str, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    files = place.kept()
    write(files, A)
    write(files, B)
    write(place.kept(fingerprint="2" * 64), A)
    path, of_b = file_of(place, A), file_of(place, B)
    data = path.read_bytes()
    place.damage(
        path,
        {
            "torn": data[:-100],
            "empty": b"",
            "altered": data[:-1] + b"x",
            "foreign": b"%PDF-1.4",
            "of another picture": of_b.read_bytes(),
            "of another model": file_of(place, A, model="2").read_bytes(),
        }[damage],
    )
    assert files.read(A) is None
    assert not path.exists()
    assert path.name in caplog.text
    assert files.read(B) is not None


def test_another_model_never_gets_this_ones_embeddings(place: Place) -> None:
    mine, other = place.kept(), place.kept(fingerprint="2" * 64)
    write(mine, A)
    assert other.read(A) is None
    assert other.held([A]) == set()
    mine.remove(A)
    removed(place)
    write(other, A)
    name = write_upload(other, b"a picture")
    mine.remove(A)  # deleting a picture deletes it for every model
    mine.remove(name)
    removed(place)
    assert other.read(A) is None
    assert place.files() == []


def test_what_is_written_again_after_its_removal_stays(place: Place) -> None:
    files = place.kept()
    write(files, A, 1.0)
    files.remove(A)
    write(files, A, 2.0)
    removed(place)
    found = files.read(A)
    assert found is not None
    assert float(found.image_rows[0, 0]) == 2.0


def test_beyond_the_bound_other_models_go_first_then_the_oldest(place: Place) -> None:
    evicted: list[int] = []
    files = place.kept(capacity=70_000, on_evict=lambda: evicted.append(1))
    write(place.kept(fingerprint="2" * 64), A, cells=150)
    for content in (B, A, C):
        write(files, content, cells=150)
    place.grow_old(file_of(place, B), 1000)
    files.trim()
    assert evicted == [1]
    assert files.held([A, B, C]) == {A, B, C}
    write(files, "d" * 64, cells=150)
    files.trim()
    assert files.held([A, B, C]) == {A, C}
    assert files.used_bytes <= 70_000
    assert files.num_embeddings == 3


def test_uploads_outlive_embeddings_unless_they_take_more_than_half(place: Place) -> None:
    files = place.kept(capacity=100_000)
    names = [write_upload(files, bytes([i]) * 20_000) for i in range(4)]
    for age, name in enumerate(names):
        place.grow_old(file_of(place, name), 1000 - age)
    write(files, A, cells=30_000 // 128)
    files.trim()
    assert [files.read_upload(name) is not None for name in names] == [False, True, True, True]
    assert files.read(A) is not None
    write(files, B, cells=30_000 // 128)
    write(files, C, cells=30_000 // 128)
    files.trim()
    assert [files.read_upload(name) is not None for name in names] == [False, False, True, True]
    assert len(files.held([A, B, C])) == 1


def test_an_upload_is_what_its_name_says(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    files = place.kept()
    name = write_upload(files, b"a picture")
    assert files.read_upload(name) == b"a picture"
    path = file_of(place, name)
    place.damage(path, b"a pictur")
    assert files.read_upload(name) is None
    assert not path.exists()
    assert "SHA-256" in caplog.text
