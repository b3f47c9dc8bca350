"""A closer look: the part that is uploaded, and prompts and masks that stay those of the whole picture."""

import hashlib
import io
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from client_server import Served
from PIL import Image as Pil

from sam2_client import AsyncClient, Client, Image, Mask, Prompt, UnexpectedReply, rle
from tests.fakes import MASK_SIDE, RADII, disc_mask

WIDTH, HEIGHT = 400, 300
REGION = (120, 70, 200, 150)
"""Around a box of 50 x 40 pixels."""
BOX = (135, 90, 185, 130)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def file(tmp_path: Path, noise: np.ndarray) -> Path:
    path = tmp_path / "noise.png"
    Pil.fromarray(noise).save(path)
    return path


@pytest.fixture
def image(client: Client, file: Path) -> Image:
    return client.embed(file)


def placed(part: np.ndarray, region: tuple[int, int, int, int] = REGION) -> np.ndarray:
    x0, y0, x1, y1 = region
    whole = np.zeros((HEIGHT, WIDTH), bool)
    whole[y0:y1, x0:x1] = part
    return whole


def found_at(x: float, y: float, radius: float = RADII[2]) -> np.ndarray:
    """The mask of a click (x, y) of the whole picture, decoded on the part."""
    x0, y0, x1, y1 = REGION
    return placed(disc_mask(x - x0, y - y0, radius, height=y1 - y0, width=x1 - x0))


def uploaded(image: Image) -> np.ndarray:
    """The pixels of what the server was sent."""
    picture = image._embedded.picture
    assert picture is not None
    data = picture.read()
    assert hashlib.sha256(data).hexdigest() == image.image_id
    return np.array(Pil.open(io.BytesIO(data)))


def mask_of(pixels: np.ndarray) -> Mask:
    """A mask that is a box, or empty."""
    ys, xs = np.nonzero(pixels)
    box = (int(xs[0]), int(ys[0]), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1) if len(xs) else (0, 0, 0, 0)
    return Mask(rle=rle.encode(pixels), iou=0.5, stability=0.5, area=len(xs), bbox=box)


def test_the_part_is_uploaded_without_loss(image: Image, noise: np.ndarray) -> None:
    closer = image.closer(BOX)
    x0, y0, x1, y1 = REGION
    assert np.array_equal(uploaded(closer), noise[y0:y1, x0:x1])
    assert closer.region == REGION
    assert image.region is None
    assert (closer.width, closer.height) == (WIDTH, HEIGHT)
    assert closer.image_id != image.image_id
    assert "x 120..200, y 70..150" in repr(closer)


def test_a_large_part_of_a_file_is_no_reason_to_pass_the_file(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam2_client.pictures.LARGE_MIB", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image.closer(BOX)


def test_prompts_and_masks_are_those_of_the_whole_picture(served: Served, image: Image) -> None:
    closer = image.closer(BOX)
    best, *others = closer.decode([(160, 110)])
    assert np.array_equal(best.to_numpy(), found_at(160, 110))
    assert len(pickle.dumps(best)) < 10_000, "it does not keep the pixels of its part"
    ys, xs = np.nonzero(best.to_numpy())
    assert best.bounds == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert best.crop().sum() == best.area == best.to_numpy().sum()
    assert len(others) == 2
    closer.decode([(160, 110), (125.5, 71)], [1, 0], box=BOX)
    (sent,) = served.segmenter.decoded[-1]
    assert (sent.points, sent.labels) == (((40, 40), (5.5, 1)), (1, 0))
    assert sent.box == (15, 20, 65, 60)


def test_an_empty_mask_stays_at_zero(client: Client, image: Image) -> None:
    (empty,) = image.closer(BOX).decode(mask=np.zeros((HEIGHT, WIDTH), bool), box=None, multimask=False)
    assert empty.area == 0
    assert empty.bbox == (0, 0, 0, 0)
    assert not empty.to_numpy().any()


def test_its_own_mask_is_refined_from_logits(served: Served, image: Image) -> None:
    closer = image.closer(BOX)
    best, *_ = closer.decode([(160, 110)])
    (better,) = closer.decode([(160, 110), (150, 100)], mask=best)
    (sent,) = served.segmenter.decoded[-1]
    assert sent.mask_logits is not None
    assert len(np.unique(sent.mask_logits)) > 2, "logits, not a mask"
    assert np.array_equal(better.to_numpy(), found_at(160, 110, RADII[1]))


@pytest.mark.parametrize("kind", ["mask", "array", "rle"])
def test_a_mask_of_the_whole_picture_is_refined_in_the_part(served: Served, image: Image, kind: str) -> None:
    whole, *_ = image.decode([(160, 110)])
    mask = {"mask": whole, "array": whole.to_numpy(), "rle": whole.rle}[kind]
    image.closer(BOX).decode([(160, 110), (150, 100)], mask=mask)  # type: ignore[arg-type]
    (sent,) = served.segmenter.decoded[-1]
    assert sent.mask_logits is not None
    assert sent.mask_logits.shape == (MASK_SIDE, MASK_SIDE)
    x0, y0, x1, y1 = REGION
    rows, columns = (
        ((np.arange(MASK_SIDE) + 0.5) / MASK_SIDE * side).astype(int) for side in (y1 - y0, x1 - x0)
    )
    inside = whole.to_numpy()[y0:y1, x0:x1][np.ix_(rows, columns)]
    assert 0.2 < inside.mean() <= 1
    assert np.mean((sent.mask_logits > 0) == inside) > 0.97


def test_its_mask_is_refined_on_the_whole_picture(served: Served, image: Image) -> None:
    best, *_ = image.closer(BOX).decode([(160, 110)], logits=True)
    assert best.logits is not None
    image.decode([(160, 110), (150, 100)], mask=best)
    (sent,) = served.segmenter.decoded[-1]
    assert sent.mask_logits is not None
    share = (sent.mask_logits > 0).mean()
    assert share == pytest.approx(best.area / (WIDTH * HEIGHT), rel=0.2), (
        "logits of the part would cover more"
    )


def test_it_is_embedded_again_where_the_server_has_evicted_it(
    served: Served, client: Client, image: Image
) -> None:
    closer = image.closer(BOX)
    client.delete(closer.image_id)
    best, *_ = closer.decode([(160, 110)])
    assert np.array_equal(best.to_numpy(), found_at(160, 110))
    closer.delete()
    assert client.image(image.image_id).width == WIDTH


def test_a_closer_look_at_a_part_is_cut_from_the_picture(
    served: Served, image: Image, noise: np.ndarray
) -> None:
    part = image.closer((100, 60, 200, 160))
    assert part.closer((10, 10, 390, 290)).region == (0, 0, WIDTH, HEIGHT), "the part would not show it"
    nearer = part.closer(BOX)
    assert nearer.region == REGION
    x0, y0, x1, y1 = REGION
    assert np.array_equal(uploaded(nearer), noise[y0:y1, x0:x1])


def test_everything_in_a_part(image: Image) -> None:
    closer = image.closer(BOX)
    found = closer.everything(
        points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1
    )
    assert found
    x0, y0, x1, y1 = REGION
    assert {mask.crop_box for mask in found} == {REGION}
    for mask in found:
        x, y = mask.point
        assert x0 < x < x1
        assert y0 < y < y1
        assert mask.rle["size"] == [HEIGHT, WIDTH]
        assert mask.crop().sum() == mask.area
    inner = closer.everything(
        points_per_side=1, region=(130, 80, 170, 120), pred_iou_thresh=0, stability_score_thresh=0
    )
    assert {mask.point for mask in inner} == {(150, 100)}
    own = closer.everything(
        points=[(0.45, 0.35), (0.3, 0.5)], pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1
    )
    assert {mask.point for mask in own} == {(180, 105), (120, 150)}, "in 0..1 of the picture, not of the part"


@pytest.mark.parametrize(
    ("box", "margin", "region"),
    [
        ((0, 0, 10, 20), 1.6, (0, 0, 64, 64)),
        ((380, 290, 400, 300), 1.6, (336, 236, 400, 300)),
        ((-50, 100, 100, 120), 1.0, (0, 60, 100, 160)),
        ((10, 10, 90, 290), 1.2, None),
        ((100, 140, 300, 150), 1.0, (100, 45, 300, 245)),
        ((100.4, 100.2, 200.6, 110.5), 1.0, (100, 55, 201, 156)),
        ((10, 10, 20, 20), 1e308, None),
    ],
)
def test_the_square_stays_within_the_picture(
    image: Image, box: tuple[int, ...], margin: float, region: tuple[int, ...] | None
) -> None:
    assert image.closer(box, margin=margin).region == region


def test_what_fills_the_picture_needs_no_closer_look(served: Served, image: Image) -> None:
    served.trouble.asked.clear()
    assert image.closer((20, 20, 380, 280)) is image
    assert not served.trouble.asked


def test_around_a_mask(image: Image) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[90:130, 135:185] = True
    assert image.closer(mask_of(pixels)).region == REGION


REFUSED: list[tuple[Callable[[Image], object], str]] = [
    (lambda image: image.closer(mask_of(np.zeros((HEIGHT, WIDTH), bool))), "the mask is empty"),
    (lambda image: image.closer(mask_of(np.ones((4, 5), bool))), "not of this picture"),
    (lambda image: image.closer((1, 2, 3)), "x0, y0, x1, y1"),
    (lambda image: image.closer((20, 20, 10, 30)), "x0 < x1"),
    (lambda image: image.closer((500, 20, 510, 30)), "outside a picture of 400 x 300"),
    (lambda image: image.closer(BOX, margin=0.5), "margin is 0.5"),
    (lambda image: image.closer(BOX, margin=float("inf")), "margin is inf"),
    (
        lambda image: image.closer(BOX).decode([(300, 110)]),
        r"a click at \(300, 110\) is outside .*x 120..200",
    ),
    (lambda image: image.closer(BOX).decode(box=(100, 90, 150, 120)), r"corner of the box at \(100, 90\)"),
    (lambda image: image.closer(BOX).decode(mask=np.ones((4, 5), bool)), "is not of this picture"),
    (lambda image: image.closer(BOX).everything(region=(0, 0, 50, 50)), r"corner of the box at \(0, 0\)"),
    (lambda image: image.closer(BOX).everything(points=[(0.5, 0.1)]), r"click at \(200, 30\)"),
]


@pytest.mark.parametrize(("call", "what"), REFUSED)
def test_what_cannot_be_looked_at_is_refused(
    image: Image, call: Callable[[Image], object], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        call(image)


def test_a_picture_known_by_its_id_alone_is_refused(client: Client, image: Image) -> None:
    with pytest.raises(ValueError, match="known here by its id alone"):
        client.image(image.image_id).closer(BOX)


def test_a_stretched_picture_is_refused(client: Client) -> None:
    deep = np.arange(120 * 160, dtype=np.uint16).reshape(120, 160)
    image = client.embed(deep, stretch="percentile")
    with pytest.raises(ValueError, match="stretch='percentile'"):
        image.closer((10, 10, 20, 20))


def test_a_deep_picture_is_scaled_as_a_whole(client: Client) -> None:
    deep = np.zeros((200, 200), np.uint16)
    deep[:100] = 65_535
    deep[150, 150] = 32_768
    assert uploaded(client.embed(deep).closer((140, 140, 160, 160))).max() == 128


def test_a_file_of_another_size_is_refused(client: Client, file: Path, noise: np.ndarray) -> None:
    image = client.embed(noise)
    assert image._embedded.picture is not None
    image._embedded.picture._data = _png(noise[:100])
    with pytest.raises(ValueError, match="400 x 100 pixels here, and 400 x 300"):
        image.closer(BOX)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Pil.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_reply_about_another_picture_is_unexpected(served: Served, image: Image) -> None:
    reply = {"image_id": "other", "width": WIDTH, "height": HEIGHT, "model": "fake", "cached": False}
    served.trouble.replies = [(200, {"content-type": "application/json"}, json.dumps(reply).encode())]
    with pytest.raises(UnexpectedReply, match="400 x 300 pixels, which has 80 x 80"):
        image.closer(BOX)


def test_a_track_needs_whole_pictures(client: Client, image: Image) -> None:
    with pytest.raises(ValueError, match="frame 1 is a part of a picture"):
        client.track([image, image.closer(BOX)])


async def test_async(served: Served, file: Path) -> None:
    async with AsyncClient(served.url) as client:
        image = await client.embed(file)
        assert await image.closer((20, 20, 380, 280)) is image
        closer = await image.closer(BOX)
        assert closer.region == REGION
        ((best, *_), _) = await closer.decode_many([Prompt(points=[(160, 110)]), Prompt(box=BOX)])
        assert np.array_equal(best.to_numpy(), found_at(160, 110))
