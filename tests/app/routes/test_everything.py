"""POST /everything: every object of a picture, stored or in the same form; its options, and what is refused."""

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from app.settings import Settings
from app.storage.register_file import ImageName
from model.types import Embedding, Prompt
from tests.fakes import IOUS, FakeSegmenter, Served, disc_mask, error, picture, serving

pytestmark = pytest.mark.usefixtures("either_service")

HEIGHT, WIDTH = 40, 60
FOUND = {"points_per_side": 4, "stability_score_thresh": 0.5, "pred_iou_thresh": 0.4}
"""The fake's discs around sixteen clicks, but for near duplicates."""
ALL = FOUND | {"box_nms_thresh": 1.0, "crop_nms_thresh": 1.0}
LARGE = (600, 400)
"""A picture whose crops have objects that are not near their edges."""


async def ask(served: Served, **options: Any) -> httpx.Response:
    """Embed a picture as "dots", and POST its id."""
    await served.embed(picture(), "dots")
    return await served.post("/everything", {"image_id": "dots", **options})


async def ask_form(
    served: Served, data: bytes | None = None, *, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    files = {"image": ("dots.png", data or picture())}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    return await served.client.post("/everything", files=files, data=texts, headers=headers)


def masks_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    masks: list[dict[str, Any]] = response.json()["masks"]
    return masks


async def test_each_click_of_the_grid_finds_masks_that_the_reply_describes() -> None:
    async with serving() as served:
        masks = masks_of(await ask(served, **ALL))
        assert len(masks) == 3 * 16
        assert {tuple(mask["point"]) for mask in masks} == {
            (x, y) for x in (7.5, 22.5, 37.5, 52.5) for y in (5.0, 15.0, 25.0, 35.0)
        }
        for mask in masks:
            drawn = coco.decode(mask["rle"])
            radius = (3.0, 6.0, 9.0)[[0.5, 0.9, 1.0].index(round(mask["iou"], 3))]
            expected = disc_mask(*mask["point"], radius, height=HEIGHT, width=WIDTH)
            assert (drawn == expected).all()
            assert mask["area"] == expected.sum()
            assert mask["bbox"] == coco.toBbox(mask["rle"]).tolist()
            assert mask["crop"] == [0, 0, WIDTH, HEIGHT]
            assert 0.5 <= mask["stability"] < 1
        assert served.service.searches.held_bytes == 0


async def test_a_form_with_the_picture_gets_the_same_reply_and_stores_it() -> None:
    async with serving() as served:
        expected = (await ask(served, **FOUND)).json()
        by_form = await ask_form(served, picture(), image_id="of-a-form", **FOUND)
        assert by_form.json() == expected | {"image_id": "of-a-form"}
        assert (await served.click("of-a-form")).status_code == 200
        assert len(served.segmenter.encoded) == 1
        stages = {part.split(";")[0] for part in by_form.headers["server-timing"].split(", ")}
        assert {"hash", "queue", "device", "masks"} <= stages


async def test_thresholds_are_the_models_own_unless_given_and_model_states_them() -> None:
    async with serving() as served:
        own = (await served.client.get("/model")).json()["everything"]
        assert set(own) == {"pred_iou_thresh", "stability_score_thresh", "box_nms_thresh"}
        left_out = await ask(served, points_per_side=4)
        assert left_out.json() == (await ask(served, points_per_side=4, **own)).json()
    # SAM2_MODEL does not say it where weights do (SAM2_CHECKPOINT), or the devices of a cluster.
    segmenter = FakeSegmenter()
    segmenter.variant = "sam2.1_hiera_tiny"
    async with serving(segmenter=segmenter) as served:
        meta = (await served.client.get("/model")).json()["everything"]
        assert meta == {"pred_iou_thresh": 0.8, "stability_score_thresh": 0.95, "box_nms_thresh": 0.7}
        left_out = await ask(served, points_per_side=4)
        assert left_out.json() == (await ask(served, points_per_side=4, **meta)).json()


async def test_the_thresholds_decide_what_is_an_object() -> None:
    async with serving() as served:
        above = masks_of(await ask(served, **ALL | {"pred_iou_thresh": IOUS[1] - 0.01}))
        assert {mask["iou"] for mask in above} == {0.9, 1.0}
        stable = masks_of(await ask(served, **ALL | {"stability_score_thresh": 0.8}))
        assert stable
        assert min(mask["stability"] for mask in stable) >= 0.8
        softer = masks_of(await ask(served, **ALL, stability_score_offset=0.1))
        assert min(mask["stability"] for mask in softer) > 0.9
        smaller = masks_of(await ask(served, **ALL, mask_threshold=3.1))
        assert {mask["iou"]: mask["area"] for mask in smaller}[0.9] < {m["iou"]: m["area"] for m in above}[
            0.9
        ]
        assert len(masks_of(await ask(served, **FOUND, box_nms_thresh=0.3))) < 48
        assert {p.iou_floor for p in served.segmenter.decoded[-1]} == {0.4}


async def test_the_order_and_how_many_are_as_asked() -> None:
    async with serving() as served:
        ious = [mask["iou"] for mask in masks_of(await ask(served, **ALL))]
        assert ious == sorted(ious, reverse=True)
        largest = masks_of(await ask(served, **ALL, order="area", max_masks=5))
        areas = [mask["area"] for mask in largest]
        assert areas == sorted(areas, reverse=True)
        assert len(areas) == 5
        assert areas[0] == max(mask["area"] for mask in masks_of(await ask(served, **ALL)))


async def test_own_points_and_regions_say_where_to_click() -> None:
    async with serving() as served:
        await ask(served, points=[[0.5, 0.5], [0.0, 1.0]])
        await ask(served, points_per_side=1, region=[10, 20, 30, 40])
        clicks = [prompt.points[0] for batch in served.segmenter.decoded for prompt in batch]
        assert clicks == [(30, 20), (0, 40), (20, 30)]


async def test_masks_come_in_every_format() -> None:
    async with serving() as served:
        plain = masks_of(await ask(served, **FOUND))
        for mask_format, fields in (
            ("rle_uncompressed", {"rle"}),
            ("png", {"png"}),
            ("polygons", {"polygons"}),
        ):
            masks = masks_of(await ask(served, **FOUND, mask_format=mask_format))
            assert [mask["area"] for mask in masks] == [mask["area"] for mask in plain]
            assert all(fields <= mask.keys() for mask in masks)
        cropped = masks_of(await ask(served, **FOUND, bounds=True))
        for mask, whole in zip(cropped, plain, strict=True):
            x0, y0, x1, y1 = mask["bounds"]
            assert (coco.decode(mask["rle"]) == coco.decode(whole["rle"])[y0:y1, x0:x1]).all()
        simple = masks_of(await ask(served, **FOUND, mask_format="polygons", simplify=2))
        assert sum(len(ring) for mask in simple for ring in mask["polygons"]) < 40 * len(simple)


async def test_returned_logits_refine_the_mask_that_they_came_with() -> None:
    async with serving() as served:
        (mask,) = masks_of(await ask(served, **FOUND, max_masks=1, return_logits=True))
        refined = await served.post("/decode", {"image_id": "dots", "mask_input": mask["logits"]})
        assert refined.json()["predictions"][0]["masks"][0]["area"] == mask["area"]


async def test_m2m_decodes_each_mask_once_more_from_its_own_logits() -> None:
    class Model(FakeSegmenter):
        def _predict(self, embedding: Any, prompt: Prompt) -> Any:
            seen = super()._predict(embedding, prompt)
            if prompt.mask_logits is not None:
                seen.logits[:] = prompt.mask_logits
            return seen

    async with serving(segmenter=Model()) as served:
        masks = masks_of(await ask(served, **ALL | {"points_per_side": 2}, use_m2m=True))
        looks = [prompt for batch in served.segmenter.decoded for prompt in batch]
        again = [prompt for prompt in looks if prompt.mask_logits is not None]
        assert (len(looks), len(again)) == (4 + 12, 12)
        assert {prompt.iou_floor for prompt in looks if prompt.mask_logits is None} == {None}
        assert not any(prompt.multimask_output for prompt in again)
        assert max(np.abs(p.mask_logits).max() for p in again if p.mask_logits is not None) == 32
        assert len(masks) == 12
        assert {mask["iou"] for mask in masks} == {0.75}
        assert len({mask["area"] for mask in masks}) >= 3


def spots() -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", LARGE)
    ImageDraw.Draw(image).ellipse((50, 50, 90, 90), fill="white")
    image.save(file, "PNG")
    return file.getvalue()


async def test_crops_are_encoded_like_pictures_and_not_kept() -> None:
    async with serving() as served:
        response = await ask_form(served, spots(), **FOUND, crop_n_layers=1, crop_n_points_downscale_factor=2)
        masks = masks_of(response)
        assert served.segmenter.encoded == [[LARGE[::-1]], *[[(268, 368)]] * 4]
        clicks = [prompt.points[0] for batch in served.segmenter.decoded for prompt in batch]
        assert len(clicks) == 16 + 4 * 4
        crops = {tuple(mask["crop"]) for mask in masks}
        assert (0, 0, *LARGE) in crops
        assert len(crops) > 1
        for mask in masks:
            x0, y0, x1, y1 = mask["crop"]
            x, y = mask["point"]
            assert x0 <= x <= x1
            assert y0 <= y <= y1
            if mask["crop"] != [0, 0, *LARGE] and mask["iou"] == 0.5:
                inner = disc_mask(x - x0, y - y0, 3.0, height=y1 - y0, width=x1 - x0)
                drawn = coco.decode(mask["rle"])
                assert (drawn[y0:y1, x0:x1] == inner).all()
                assert drawn.sum() == inner.sum()
        assert len((await served.client.get("/images")).json()["images"]) == 1
        assert served.service.searches.held_bytes == 0


async def test_polygons_of_crops_lie_where_the_crop_was() -> None:
    async with serving() as served:
        asked: dict[str, Any] = FOUND | {"crop_n_layers": 1}
        runs = masks_of(await ask_form(served, spots(), **asked))
        outlined = masks_of(await ask_form(served, spots(), **asked, mask_format="polygons"))
        for mask, outline in zip(runs, outlined, strict=True):
            x, y, width, height = mask["bbox"]
            points = np.array([point for ring in outline["polygons"] for point in ring])
            np.testing.assert_allclose(points.min(axis=0), (x, y), atol=1)
            np.testing.assert_allclose(points.max(axis=0), (x + width, y + height), atol=1)


async def test_crops_of_a_stored_picture_require_its_file(tmp_path: Path) -> None:
    async with serving() as served:
        response = await ask(served, crop_n_layers=1)
        assert error(response) == (422, "invalid_prompt")
        assert "SAM2_KEEP_UPLOADS" in response.text
        assert served.segmenter.decoded == []
    async with serving(Settings(workers=2, cache_dir=str(tmp_path), keep_uploads=True)) as served:
        await served.embed(spots(), "spots")
        response = await served.post("/everything", {"image_id": "spots", "crop_n_layers": 1, **FOUND})
        assert len({tuple(mask["crop"]) for mask in masks_of(response)}) > 1


async def test_crops_are_cut_from_the_picture_that_is_looked_at_also_if_its_id_is_replaced_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were cut from the new picture, at places of the old one."""
    async with serving(Settings(workers=2, cache_dir=str(tmp_path), keep_uploads=True)) as served:
        await served.embed(spots(), "spots")
        store = served.service.store
        find, named = store.find_named, {"image_id": "spots", "replace": "true"}

        async def slow(name: ImageName) -> Embedding | None:
            found = await find(name)
            if (name.height, name.width) != (200, 300):
                await served.client.post("/embed", files={"image": picture(300, 200)}, data=named)
            return found

        monkeypatch.setattr(store, "find_named", slow)
        response = await served.post("/everything", {"image_id": "spots", "crop_n_layers": 1, **FOUND})
        assert {tuple(mask["rle"]["size"]) for mask in masks_of(response)} == {(200, 300)}
        assert len({tuple(mask["crop"]) for mask in masks_of(response)}) > 1


async def test_crops_count_as_pictures_before_any_work_is_done() -> None:
    async with serving(Settings(workers=2, rate_pictures_per_minute=4)) as served:
        for headers in ({}, {"Accept": "application/x-ndjson"}):
            refused = await ask_form(served, spots(), headers=headers, crop_n_layers=1)
            assert error(refused) == (429, "rate_limited")
        assert len(served.segmenter.encoded) == 1
        assert served.segmenter.decoded == []


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"points_per_side": 0}, "validation_error", "points_per_side"),
        ({"points_per_side": True}, "validation_error", "points_per_side"),
        ({"points_per_side": 8.5}, "validation_error", "points_per_side"),
        ({"pred_iou_thresh": 1.5}, "validation_error", "pred_iou_thresh"),
        ({"box_nms_thresh": -1}, "validation_error", "box_nms_thresh"),
        ({"crop_n_layers": 4}, "validation_error", "crop_n_layers"),
        ({"points": []}, "validation_error", "points"),
        ({"points": [[0.5, 1.5]]}, "validation_error", "points[0][1]"),
        ({"points": [[0.5, 0.5]], "points_per_side": 8}, "validation_error", "give one of them"),
        ({"max_masks": 0}, "validation_error", "max_masks"),
        ({"order": "size"}, "validation_error", "order"),
        ({"points_per_batch": 64}, "validation_error", "unknown field"),
        ({"max_hole_area": 5}, "validation_error", "unknown field"),
        ({"mask_format": "png", "simplify": 1}, "validation_error", "simplify"),
        ({"return_logits": True, "crop_n_layers": 1}, "validation_error", "logits of a crop"),
        ({"region": [10, 10, 5, 20]}, "invalid_prompt", "holds no pixel"),
        ({"region": [60, 0, 90, 20]}, "invalid_prompt", "holds no pixel"),
        ({"points": [[0.9, 0.9]], "region": [0, 0, 9, 9]}, "invalid_prompt", "no point is left"),
        (
            {"points_per_side": 2, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
            "invalid_prompt",
            "no point for crops of layer 2",
        ),
        ({"points_per_side": 256, "crop_n_layers": 1}, "invalid_prompt", "the limit is 65536"),
    ],
    ids=str,
)
async def test_what_is_wrong_with_the_options_is_said(options: dict[str, Any], code: str, words: str) -> None:
    async with serving() as served:
        for response in (await ask(served, **options), await ask_form(served, **options)):
            assert error(response) == (422, code)
            assert words in response.text
        assert served.segmenter.decoded == []


async def test_other_errors_are_those_of_the_other_endpoints() -> None:
    async with serving() as served:
        assert error(await served.post("/everything", {"image_id": "nobody"})) == (404, "image_not_found")
        assert error(await served.post("/everything", {})) == (422, "validation_error")
        raw = await served.client.post(
            "/everything", content=b"{", headers={"Content-Type": "application/json"}
        )
        assert error(raw) == (400, "bad_request")
        png = await served.client.post(
            "/everything", content=picture(), headers={"Content-Type": "image/png"}
        )
        assert error(png) == (415, "unsupported_media_type")
        assert error(await ask_form(served, b"no picture")) == (422, "invalid_image")
        assert error(await served.client.post("/everything?x=1", json={"image_id": "a"}))[0] == 422


async def test_a_picture_without_objects_gets_no_masks() -> None:
    async with serving() as served:
        assert masks_of(await ask(served, pred_iou_thresh=1.0, points=[[0.5, 0.5]], max_masks=3))[1:] == []
        assert masks_of(await ask(served, stability_score_thresh=1.0)) == []
