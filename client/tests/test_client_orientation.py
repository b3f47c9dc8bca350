"""The client turns files as the service does, which turns them as browsers do."""

import io

import numpy as np
import pytest
from PIL import Image

from sam2_client import Client
from sam2_client.picture_files import stored_orientation
from sam2_client.pictures import open_picture
from tests.app.codecs.small_pictures import decoded
from tests.oriented_files import OrientedFile, oriented_files, turn, upright

FILES = oriented_files()
COLOURS = {(255, 0, 0): 1, (0, 255, 0): 2, (0, 0, 255): 3, (255, 255, 255): 4}


def quarters(image: Image.Image) -> list[int]:
    width, height = image.size
    places = [
        (width // 4 + dx * width // 2, height // 4 + dy * height // 2) for dy in (0, 1) for dx in (0, 1)
    ]
    nearest = [
        min(COLOURS, key=lambda colour: np.abs(np.subtract(colour, image.getpixel(place))).sum())
        for place in places
    ]
    return [width, height, *(COLOURS[colour] for colour in nearest)]


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_files_are_turned_as_browsers_turn_them(file: OrientedFile) -> None:
    assert quarters(open_picture(file.data)) == upright(file.browser)


def test_what_is_cut_out_is_what_was_clicked(client: Client) -> None:
    for name in ("JPEG 6", "JPEG, XMP only", "PNG 3", "WebP 6"):
        mask = client.embed(FILES[name].data).decode(points=[(40, 30)], labels=[1])[0]
        assert mask.rle["size"] == list(open_picture(FILES[name].data).size[::-1])
        mask.cutout(FILES[name].data)


def test_a_file_that_the_service_turns_otherwise_is_not_cut_out_of(client: Client) -> None:
    mask = client.embed(FILES["JPEG 6"].data).decode(points=[(40, 30)], labels=[1])[0]
    with pytest.raises(
        ValueError, match="160 x 120 pixels here, the mask 120 x 160: it is another picture, or"
    ):
        mask.cutout(FILES["JPEG 1"].data)


@pytest.mark.parametrize("stray", [b"\0\0", b"\x12\x34\0", b"\xff\1", b"\xff\0\xff"], ids=repr)
@pytest.mark.parametrize("segment", [b"\xff\xe1", b"\xff\xdb"])
def test_stray_bytes_between_segments_change_nothing(stray: bytes, segment: bytes) -> None:
    data = FILES["JPEG 6"].data
    at = data.index(segment)
    broken = data[:at] + stray + data[at:]
    assert decoded(broken).shape == decoded(data).shape
    assert open_picture(broken) == open_picture(data)


def test_headers_without_an_end_are_no_orientation() -> None:
    for data in (
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe1",
        b"\xff\xd8" + b"\xff" * 9,
        b"\x89PNG\r\n\x1a\n\0",
    ):
        assert stored_orientation(data) == 1
    assert stored_orientation(b"\xff\xd8\xff\xe1\0\0Exif\0\0" + turn(6)) == 1
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "TIFF")
    assert stored_orientation(file.getvalue()) is None
