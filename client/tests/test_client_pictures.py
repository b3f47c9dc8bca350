"""The pictures that Client.embed accepts, against the real service on a real port."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from client_server import Served
from PIL import Image

import sam2_client
from sam2_client import Client
from sam2_client.pictures import Picture, encoded, open_picture
from sam2_client.workers import worked
from tests.app.codecs.small_pictures import decoded, gif_of_a_small_frame
from tests.app.codecs.test_cut_off import JPEGS, run_length_bmp
from tests.app.codecs.test_png import chunk, png


def test_embeds_a_path_and_its_bytes_as_one_picture(client: Client, truck: Path) -> None:
    first = client.embed(truck)
    again = client.embed(truck.read_bytes())
    assert (first.width, first.height) == (60, 40)
    assert first.model == "fake"
    assert again.cached
    assert again.image_id == first.image_id == client.embed(str(truck)).image_id


@pytest.mark.parametrize(
    ("mode", "dtype", "shape"),
    [
        ("L", np.uint8, (40, 60)),
        ("L", np.uint8, (40, 60, 1)),
        ("RGB", np.uint8, (40, 60, 3)),
        ("RGBA", np.uint8, (40, 60, 4)),
        ("I;16", np.uint16, (40, 60)),
    ],
)
def test_arrays_are_uploaded_without_loss(
    client: Client, mode: str, dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    with Image.open(io.BytesIO(Picture(array).read())) as uploaded:
        assert uploaded.mode == mode
        assert np.array_equal(np.asarray(uploaded), array.reshape(shape[:2]) if mode == "L" else array)
    image = client.embed(array)
    assert (image.width, image.height) == (60, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_pil_images_of_every_mode_are_uploaded(client: Client, mode: str) -> None:
    image = client.embed(Image.new(mode, (6, 4)))
    assert (image.width, image.height) == (6, 4)


def test_threads_may_share_an_image_whose_file_is_not_read_yet() -> None:
    """As `embed_many([image] * 4)` and a track of one picture do: Pillow reads the file in the first that asks."""
    noise, file = Image.effect_noise((300, 300), 50), io.BytesIO()
    noise.save(file, "PNG")
    wanted = Picture(noise).read()
    for _ in range(5):
        with Image.open(file) as shared:
            results = [result for _, result in worked([shared] * 8, Picture, concurrency=8)]
        for result in results:
            assert isinstance(result, Picture), repr(result)
            assert result.read() == wanted


def test_threads_that_upload_one_image_share_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow keeps those of `save` at the image, and puts back what was there when the first one began."""
    shared = Image.effect_noise((30, 20), 50)
    wanted, write = encoded(shared), Image.SAVE["PNG"]
    first_began, second_began, first_is_done = threading.Event(), threading.Event(), threading.Event()

    def slow(*given: Any) -> None:
        mine, others = (second_began, first_is_done) if first_began.is_set() else (first_began, second_began)
        mine.set()
        assert others.wait(60)
        write(*given)

    monkeypatch.setitem(Image.SAVE, "PNG", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(encoded, shared)
        assert first_began.wait(60)
        second = pool.submit(encoded, shared)
        first.add_done_callback(lambda _: first_is_done.set())
        assert first.result() == wanted
        assert second.result() == wanted


def test_pixels_keep_their_place_whatever_exif_says_of_them(client: Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    file = io.BytesIO()
    Image.new("RGB", (60, 40)).save(file, "JPEG", exif=exif)
    with Image.open(file) as opened:
        assert client.embed(opened).width == opened.width == 60
    assert client.embed(file.getvalue()).width == 40
    assert open_picture(file.getvalue()).width == 40


def test_what_is_no_picture_is_refused_before_anything_is_sent(client: Client, served: Served) -> None:
    for array, what in [
        (np.zeros((3, 40, 60), np.uint8), "shape"),
        (np.zeros(5, np.uint8), "shape"),
        (np.zeros((40, 60)), "float64"),
        (np.zeros((40, 60, 3), np.uint16), "uint16"),
    ]:
        with pytest.raises(ValueError, match=what):
            client.embed(array)
    with pytest.raises(TypeError, match="list is not a picture"):
        client.embed([1, 2])  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        client.embed("nowhere.jpg")
    assert served.trouble.asked == []


def test_large_pixels_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam2_client.pictures.LARGE_MIB", 0)
    with pytest.warns(sam2_client.LargePictureWarning, match="60 x 40 pixels.*pass its path"):
        Picture(np.zeros((40, 60), np.uint8))


def test_an_address_is_no_file() -> None:
    with pytest.raises(ValueError, match=r"https://pictures\.example/truck\.jpg is a URL"):
        Picture("https://pictures.example/truck.jpg")


@pytest.mark.parametrize(
    ("value", "shown"), [(np.nan, 0), (np.inf, 255), (-np.inf, 0)], ids=["nan", "inf", "-inf"]
)
def test_values_that_are_not_finite_do_not_darken_the_others(value: float, shown: int) -> None:
    pixels = np.linspace(-3, 5, 40 * 60, dtype=np.float32).reshape(40, 60)
    pixels[0, 0] = value
    seen = np.asarray(open_picture(Image.fromarray(pixels)))[..., 0]
    assert seen[0, 0] == shown
    assert (seen[0, 1], seen[-1, -1]) == (0, 255)
    assert len(np.unique(seen)) == 256
    nothing = np.asarray(open_picture(Image.fromarray(np.full((4, 6), value, np.float32))))
    assert len(np.unique(nothing)) == 1


@pytest.mark.parametrize("transparent", [None, 0])
def test_where_the_first_frame_of_a_gif_leaves_the_screen_free_is_white(transparent: int | None) -> None:
    data, expected = gif_of_a_small_frame(transparent)
    assert np.array_equal(np.asarray(open_picture(data)), expected)


@pytest.mark.parametrize("numbers", [np.float64, np.uint64])
def test_what_pillow_does_not_read_is_refused_in_words(numbers: type[np.generic], tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, np.arange(24).reshape(4, 6).astype(numbers))
    assert decoded(path.read_bytes()).shape == (4, 6, 3)
    with pytest.raises(OSError, match=r"deep\.tif cannot be shown here: Pillow .*convert it to PNG"):
        open_picture(path)
    with pytest.raises(OSError, match="the picture cannot be shown here"):
        open_picture(run_length_bmp(b"\4\x12\0\0\0\3\x34\x50\0\0\3\x67\0\1", bits=4))


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("ending", [b"", b"\xff", bytes(500)], ids=["nothing", "half", "zeros"])
def test_a_jpeg_that_lacks_only_its_end_is_what_the_service_sees(kind: str, ending: bytes) -> None:
    data = JPEGS[kind][:-2] + (ending if "zeros" not in kind else b"")
    seen = decoded(data).astype(int)
    assert np.abs(np.asarray(open_picture(data)).astype(int) - seen).max() <= 1
    turned = Image.Exif()
    turned[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(seen.astype(np.uint8)).save(file, "JPEG", exif=turned)
    assert open_picture(file.getvalue()[:-2]).size == seen.shape[:2]


@pytest.mark.parametrize("part", [0.5, 0.8, 0.95, 0.98])
@pytest.mark.parametrize("kind", [kind for kind in JPEGS if "flat" not in kind])
def test_a_jpeg_without_its_last_rows_is_not_shown(kind: str, part: float) -> None:
    data = JPEGS[kind]
    with pytest.raises(OSError, match="truncated"):
        open_picture(data[: int(len(data) * part)])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_of_any_depth_is_white(depth: int) -> None:
    grey = np.arange(2**depth).reshape(1, -1, 1)
    for value in range(2**depth):
        data = png(grey, 0, depth, chunk(b"tRNS", value.to_bytes(2, "big")))
        assert np.array_equal(np.asarray(open_picture(data)), decoded(data))
        assert open_picture(data).getpixel((value, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "AVIF"])
def test_what_breaks_pillow_is_refused_in_words(kind: str) -> None:
    """It raises an AssertionError where a palette is missing, others for a width below 0 and for broken pixels."""
    file = io.BytesIO()
    Image.new("RGB" if kind == "AVIF" else "P", (64, 64)).save(file, kind)
    data = bytearray(file.getvalue())
    if kind == "PNG":
        at = data.index(b"PLTE") - 4
        del data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
    elif kind == "BMP":
        data[18:22] = b"\xfc\xff\xff\xff"
    else:
        at = data.index(b"mdat") + 16
        data[at:] = bytes(len(data) - at)
    with pytest.raises(OSError, match="the picture cannot be shown here"):
        open_picture(bytes(data))


def test_damaged_transparency_has_no_say() -> None:
    data = png(np.arange(256).reshape(1, -1, 1), 0, 8, chunk(b"tRNS", b"\0\5")[:-4] + b"else")
    assert np.array_equal(np.asarray(open_picture(data)), decoded(data))
