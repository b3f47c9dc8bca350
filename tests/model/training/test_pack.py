"""Reading the training pack, what is held out of it, and the regions of its photographs."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.training import segments
from model.training.pack import Pack, PackError, read_pack
from model.training.segments import with_segments
from tests.model.training.packs import cutout, encoded, photograph, write_pack, write_tar


def test_pictures_come_back_with_their_masks(tmp_path: Path) -> None:
    write_pack(tmp_path)
    pack = read_pack(tmp_path)
    assert [picture.file for picture in pack.photographs] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [picture.source for picture in pack.photographs] == ["coco-mini", "balloon", "dsb2018"]
    assert [picture.file for picture in pack.cutouts] == ["white.webp"]
    assert [picture.file for picture in pack.backgrounds] == ["ground.jpg"]
    read, made = pack.photographs[0], photograph()
    np.testing.assert_array_equal(read.pixels, made.pixels)
    assert len(read.masks) == 2
    for mask, known in zip(read.masks, made.masks, strict=True):
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, known)
    np.testing.assert_array_equal(pack.cutouts[0].pixels, cutout().pixels)


def test_areas_and_boxes_are_of_the_masks() -> None:
    picture = photograph()
    np.testing.assert_array_equal(picture.areas, [mask.sum() for mask in picture.masks])
    np.testing.assert_array_equal(picture.boxes, [(21, 26, 69, 69), (105, 30, 41, 41)])


def test_a_folder_without_tars_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=f"no tar file in {tmp_path}"):
        read_pack(tmp_path)


def test_a_tar_without_its_pictures_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [photograph("here.jpg")])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole.replace(b'"file": "here.jpg"', b'"file": "gone.jpg"'))
    with pytest.raises(PackError, match=r"a\.tar holds no file gone\.jpg"):
        read_pack(tmp_path)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    wrong = replace(photograph(), runs=(encoded(np.ones((30, 40), np.bool_)),))
    write_tar(tmp_path / "a.tar", [wrong])
    with pytest.raises(PackError, match=r"a\.jpg is \(120, 160\), a mask of it \[30, 40\]"):
        read_pack(tmp_path)


def listed(counts: re.Match[bytes]) -> bytes:
    """Counts as a list, in as many bytes."""
    return b'"counts": [1]'.ljust(len(counts[0]))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda tar: b"no tar at all", "it cannot be read"),
        (lambda tar: tar[: tar.index(b"IDAT")], "it cannot be read: unexpected end of data"),
        (lambda tar: tar.replace(b"PNG", b"XXX"), "line 1 of .*cannot identify image file"),
        (lambda tar: tar.replace(b'{"file"', b'["file"'), "line 1 of "),
        (lambda tar: tar.replace(b'"masks"', b'"maska"'), "line 1 of .*'masks'"),
        (lambda tar: tar.replace(b'"size": [', b'"sizf": ['), "line 1 of .*'size'"),
        (lambda tar: re.sub(rb'"counts": "[^"]+"', listed, tar), "line 1 of .*got list"),
    ],
)
def test_a_damaged_tar_is_named_and_the_place_in_it(
    tmp_path: Path, damage: Callable[[bytes], bytes], why: str
) -> None:
    write_tar(tmp_path / "a.tar", [photograph()])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(damage(whole))
    with pytest.raises(PackError, match=rf"a\.tar: .*{why}"):
        read_pack(tmp_path)


def test_regions_follow_what_looks_alike(tmp_path: Path) -> None:
    pack = Pack((photograph(),), (), ())
    (picture,) = with_segments(pack, tmp_path).photographs
    assert len(picture.segments) == len(segments.SCALES)
    for labels in picture.segments:
        assert labels.shape == (120, 160)
        inside = labels[picture.mask(0)]
        common = np.bincount(inside).argmax()
        iou = (inside == common).sum() / ((labels == common) | picture.mask(0)).sum()
        assert iou > 0.85


def test_regions_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = Pack((photograph(),), (), ())
    (found,) = with_segments(pack, tmp_path).photographs
    monkeypatch.setattr(segments, "felzenszwalb", None)
    (kept,) = with_segments(pack, tmp_path).photographs
    np.testing.assert_array_equal(np.stack(kept.segments), np.stack(found.segments))


def test_nuclei_have_no_regions(tmp_path: Path) -> None:
    (picture,) = with_segments(Pack((photograph(source="dsb2018"),), (), ()), tmp_path).photographs
    assert picture.segments == ()
