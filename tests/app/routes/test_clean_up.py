"""Clean-up options: holes, specks, fewer points, cropping to the box; and values out of range."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from app.codecs.logits import encode_logits
from tests.fakes import MASK_SIDE, Served, disc, error, picture, serving

HEIGHT, WIDTH = 40, 60


def spotted() -> str:
    """Return logits of a disc with a hole of 4 pixels, and a speck of 6 next to it."""
    logits = disc(0.5, 0.5, 9.0)
    logits[15:17, 15:17] = -5
    logits[2:5, 2:4] = 30
    return encode_logits(logits, bytes_per_value=4)


async def mask_of(served: Served, **fields: Any) -> dict[str, Any]:
    """Return the one mask of the fake model, which returns a mask_input unchanged."""
    response = await served.post("/decode", {"image_id": "truck", "mask_input": spotted(), **fields})
    assert response.status_code == 200, response.text
    (mask,) = response.json()["predictions"][0]["masks"]
    return mask


def pixels(mask: dict[str, Any]) -> np.ndarray:
    """Decode the RLE of a mask to booleans."""
    return coco.decode(mask["rle"]).astype(bool)


async def test_holes_are_filled_and_specks_removed_and_logits_stay_the_models() -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        plain = await mask_of(served)
        full = pixels(plain)
        assert not full[HEIGHT // 2, WIDTH // 2]
        assert full[:6].any()
        for holes, specks in ((4, 0), (0, 6), (4, 6), (3.9, 5.9)):
            mask = await mask_of(served, max_hole_area=holes, max_sprinkle_area=specks, return_logits=True)
            shown = pixels(mask)
            assert shown[HEIGHT // 2, WIDTH // 2] == (holes == 4)
            assert shown[:6].any() == (specks != 6)
            assert mask["area"] == shown.sum()
            assert mask["bbox"] == coco.toBbox(mask["rle"]).tolist()
            assert mask["stability"] == plain["stability"]
            assert mask["logits"] == spotted()


async def test_polygons_are_of_the_cleaned_mask_and_simplified_on_request() -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        plain = await mask_of(served, mask_format="polygons")
        assert (len(plain["polygons"]), len(plain["holes"])) == (2, 1)
        cleaned = {"mask_format": "polygons", "max_hole_area": 4, "max_sprinkle_area": 6}
        clean = await mask_of(served, **cleaned)
        assert (len(clean["polygons"]), len(clean["holes"])) == (1, 0)
        simple = await mask_of(served, **cleaned, simplify=1)
        assert 3 <= len(simple["polygons"][0]) < len(clean["polygons"][0]) / 2
        assert {tuple(point) for point in simple["polygons"][0]} <= {tuple(p) for p in clean["polygons"][0]}
        assert simple["area"] == clean["area"]  # that of the mask, not of the simplified outline


async def test_a_mask_comes_cropped_to_its_box() -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        plain = await mask_of(served, max_sprinkle_area=6)
        full = pixels(plain)
        for mask_format in ("rle", "rle_uncompressed", "png"):
            mask = await mask_of(served, max_sprinkle_area=6, mask_format=mask_format, bounds=True)
            x0, y0, x1, y1 = mask["bounds"]
            assert mask["bbox"] == plain["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert mask["area"] == plain["area"]
            if mask_format == "png":
                shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["png"]))))
            else:
                assert mask["rle"]["size"] == [y1 - y0, x1 - x0]
                if mask_format == "rle_uncompressed":
                    mask["rle"] = coco.frPyObjects(mask["rle"], *mask["rle"]["size"])
                shown = pixels(mask)
            assert (shown == full[y0:y1, x0:x1]).all()
        assert "bounds" not in plain


async def test_of_an_empty_mask_one_pixel_comes() -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        everything = {"bounds": True, "max_sprinkle_area": MASK_SIDE**2}
        mask = await mask_of(served, **everything)
        assert (mask["area"], mask["bbox"], mask["bounds"]) == (0, [0, 0, 0, 0], [0, 0, 1, 1])
        assert not pixels(mask).any()
        assert "png" in await mask_of(served, **everything, mask_format="png")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_hole_area": -1}, "max_hole_area"),
        ({"max_hole_area": 65537}, "65536"),
        ({"max_sprinkle_area": -0.5}, "greater than or equal to 0"),
        ({"max_sprinkle_area": "10"}, "valid number"),
        ({"simplify": -1, "mask_format": "polygons"}, "simplify"),
        ({"simplify": 1e9, "mask_format": "polygons"}, "1000"),
        ({"simplify": True, "mask_format": "polygons"}, "valid number"),
        ({"simplify": 2}, "simplify requires mask_format 'polygons', not 'rle'"),
        ({"bounds": True, "mask_format": "polygons"}, "bounds requires"),
        ({"bounds": 1}, "bounds"),
        ({"prompts": [{"max_hole_area": 1}]}, "max_hole_area"),
    ],
)
async def test_values_out_of_range_are_refused_in_words(fields: dict[str, Any], words: str) -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        click = {} if "prompts" in fields else {"point_coords": [[30, 20]], "point_labels": [1]}
        response = await served.post("/decode", {"image_id": "truck", **click, **fields})
        assert error(response) == (422, "validation_error")
        assert words in response.json()["error"]["message"]
