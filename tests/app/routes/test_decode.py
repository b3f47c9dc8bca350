"""POST /decode: prompts, masks in each format, and logits that are sent back."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from model.types import Prompt
from tests.app.routes.decode_requests import CLICK, HEIGHT, WIDTH, masks_in
from tests.fakes import IOUS, MASK_SIDE, RADII, SINGLE_IOU, FakeSegmenter, disc, disc_mask, picture, serving

pytestmark = pytest.mark.usefixtures("either_service")


def mask_of(radius: float) -> np.ndarray:
    """Return the mask (HEIGHT, WIDTH) of CLICK."""
    return disc_mask(30, 20, radius, height=HEIGHT, width=WIDTH)


async def test_a_click_gets_three_masks_the_best_first() -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        response = await served.click("truck")
        body = response.json()
        (prediction,) = body.pop("predictions")
        assert body == {"image_id": "truck", "width": WIDTH, "height": HEIGHT, "model": "fake"}
        assert [mask["iou"] for mask in prediction["masks"]] == [1.0, 0.9, 0.5]  # clipped to 0..1
        for mask, radius in zip(prediction["masks"], RADII[::-1], strict=True):
            assert set(mask) == {"rle", "iou", "stability", "area", "bbox"}
            wanted = mask_of(radius)
            assert mask["rle"]["size"] == [HEIGHT, WIDTH]
            assert (coco.decode(mask["rle"]).astype(bool) == wanted).all()
            assert mask["area"] == wanted.sum()
            assert mask["bbox"] == coco.toBbox(mask["rle"]).tolist()
            logits = disc(0.5, 0.5, radius)
            assert mask["stability"] == pytest.approx((logits > 1).sum() / (logits > -1).sum(), abs=1e-6)
        timing = response.headers["server-timing"]
        assert {"queue", "device", "masks"} <= {part.split(";")[0] for part in timing.split(", ")}


async def test_each_mask_format_shows_the_same_mask() -> None:
    wanted = mask_of(RADII[2])
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        replies = {
            mask_format: masks_in(
                await served.post("/decode", {"image_id": "truck", "mask_format": mask_format, **CLICK})
            )[0]
            for mask_format in ("rle", "rle_uncompressed", "polygons", "png")
        }
    common = {"iou", "stability", "area", "bbox"}
    assert {name: set(mask) - common for name, mask in replies.items()} == {
        "rle": {"rle"},
        "rle_uncompressed": {"rle"},
        "polygons": {"polygons", "holes"},
        "png": {"png"},
    }
    assert len({json.dumps([mask[name] for name in sorted(common)]) for mask in replies.values()}) == 1
    assert (coco.decode(replies["rle"]["rle"]).astype(bool) == wanted).all()

    counts = replies["rle_uncompressed"]["rle"]["counts"]
    assert isinstance(counts, list)
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    assert (wanted == inside.reshape(WIDTH, HEIGHT).T).all()

    image = Image.open(io.BytesIO(base64.b64decode(replies["png"]["png"])))
    assert (image.format, image.mode, image.size) == ("PNG", "1", (WIDTH, HEIGHT))
    assert (np.asarray(image) == wanted).all()

    (ring,) = replies["polygons"]["polygons"]
    assert replies["polygons"]["holes"] == []
    scale = 16  # draws each pixel as 16 x 16, to test which centres are inside the ring
    canvas = Image.new("1", (WIDTH * scale, HEIGHT * scale))
    ImageDraw.Draw(canvas).polygon([(x * scale, y * scale) for x, y in ring], fill=1)
    centres = np.asarray(canvas)[scale // 2 :: scale, scale // 2 :: scale]
    assert (centres != wanted).sum() <= 2  # those that the outline crosses


async def test_a_hole_comes_apart_from_the_outer_rings() -> None:
    ring = np.full((MASK_SIDE, MASK_SIDE), -5, np.float32)
    ring[8:24, 8:24] = 5
    ring[14:18, 14:18] = -5
    async with serving() as served:
        await served.embed(picture(MASK_SIDE, MASK_SIDE), "frame")
        rle = coco.encode(np.asfortranarray(ring > 0, np.uint8))
        prompt = {"mask_input": {"size": rle["size"], "counts": rle["counts"].decode()}}
        request = {"image_id": "frame", "mask_format": "polygons", **prompt}
        (mask,) = masks_in(await served.post("/decode", request))
        assert [len(mask["polygons"]), len(mask["holes"])] == [1, 1]
        outer, hole = np.array(mask["polygons"][0]), np.array(mask["holes"][0])
        assert [outer.min(), outer.max(), hole.min(), hole.max()] == [8, 24, 14, 18]


async def test_an_empty_mask_has_a_box_of_zeros() -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        request = {"image_id": "truck", "point_coords": [[-60, -40]], "point_labels": [1]}
        for mask_format in ("rle", "polygons", "png"):
            mask = masks_in(await served.post("/decode", {**request, "mask_format": mask_format}))[0]
            assert (mask["area"], mask["bbox"], mask["stability"]) == (0, [0, 0, 0, 0], 1.0)


@pytest.mark.parametrize(
    ("prompt", "masks"),
    [
        (CLICK, 3),
        ({"point_coords": [[1, 1]], "point_labels": [0]}, 3),
        ({**CLICK, "multimask_output": False}, 1),
        ({**CLICK, "box": None, "mask_input": None, "multimask_output": None}, 3),
        ({"point_coords": [[1, 1], [2, 2]], "point_labels": [1, 0]}, 1),
        ({"box": [1, 2, 3, 4]}, 1),
        ({"box": [1, 2, 3, 4], "point_coords": None, "point_labels": None}, 1),
        ({**CLICK, "box": [1, 2, 3, 4]}, 1),
        ({**CLICK, "box": [1, 2, 3, 4], "multimask_output": True}, 3),
    ],
)
async def test_three_masks_for_one_lone_click_and_one_otherwise(prompt: dict[str, Any], masks: int) -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        alone = await served.post("/decode", {"image_id": "truck", **prompt})
        listed = await served.post("/decode", {"image_id": "truck", "prompts": [prompt]})
        assert len(masks_in(alone)) == masks
        assert masks_in(alone)[0]["iou"] == (1.0 if masks == 3 else SINGLE_IOU)
        assert alone.json() == listed.json()


async def test_a_prompt_reaches_the_model_as_it_was_sent() -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        request = {
            "image_id": "truck",
            "point_coords": [[0.5, -40], [120, 79.25]],
            "point_labels": [1, 0],
            "box": [-60, -40, 120, 80],
        }
        assert (await served.post("/decode", request)).status_code == 200
        ((prompt,),) = served.segmenter.decoded
        assert prompt.points == ((0.5, -40.0), (120.0, 79.25))
        assert prompt.labels == (1, 0)
        assert prompt.box == (-60.0, -40.0, 120.0, 80.0)
        assert prompt.mask_logits is None
        assert prompt.multimask_output is False


async def test_many_prompts_of_any_mix_are_answered_in_order() -> None:
    prompts = [
        {"point_coords": [[x, 10]], "point_labels": [1], "multimask_output": x % 2 == 0} for x in range(20)
    ]
    prompts.insert(3, {"box": [10, 10, 30, 30]})
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        together = (await served.post("/decode", {"image_id": "truck", "prompts": prompts})).json()
        singly = [
            (await served.post("/decode", {"image_id": "truck", **prompt})).json() for prompt in prompts
        ]
        assert together["predictions"] == [reply["predictions"][0] for reply in singly]
        assert {**together, "predictions": []} == {**singly[0], "predictions": []}


async def test_logits_that_were_handed_out_come_back_exactly() -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        request = {"image_id": "truck", "return_logits": True, **CLICK}
        masks = masks_in(await served.post("/decode", request))
        assert masks[0]["logits"].isascii()
        refined = {"image_id": "truck", "mask_input": masks[1]["logits"], **CLICK}
        assert len(masks_in(await served.post("/decode", refined))) == 1
        logits = served.segmenter.decoded[-1][0].mask_logits
        assert logits is not None
        assert logits.dtype == np.float32
        assert (logits == disc(0.5, 0.5, RADII[1]).clip(-32, 32)).all()
        assert (logits == -32).any()


async def test_the_model_is_told_which_logits_may_be_refined() -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        for return_logits in (True, False):
            await served.post("/decode", {"image_id": "truck", "return_logits": return_logits, **CLICK})
            (prompt,) = served.segmenter.decoded[-1]
            assert prompt.hands_out_logits is return_logits


async def test_logits_of_a_model_in_half_precision_are_half_as_long() -> None:
    lengths = {}
    for dtype_name in ("float32", "bfloat16"):
        async with serving(segmenter=FakeSegmenter(dtype_name=dtype_name)) as served:
            await served.embed(picture(WIDTH, HEIGHT), "truck")
            request = {"image_id": "truck", "return_logits": True, **CLICK}
            text = masks_in(await served.post("/decode", request))[0]["logits"]
            lengths[dtype_name] = len(text)
            await served.post("/decode", {"image_id": "truck", "mask_input": text})
            logits = served.segmenter.decoded[-1][0].mask_logits
            assert logits is not None
            assert np.allclose(logits, disc(0.5, 0.5, RADII[2]).clip(-32, 32), rtol=1e-3)
    assert lengths["bfloat16"] < 0.52 * lengths["float32"]


@pytest.mark.parametrize("form", ["string", "list"])
async def test_a_coco_mask_is_taken_as_a_prompt(form: str) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[10:30, 15:45] = 1
    toggles = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0))
    runs = np.diff(toggles, prepend=0).tolist()
    runs.append(HEIGHT * WIDTH - sum(runs))
    counts = coco.encode(mask)["counts"].decode() if form == "string" else runs
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        prompt = {"mask_input": {"size": [HEIGHT, WIDTH], "counts": counts}}
        (answer,) = masks_in(await served.post("/decode", {"image_id": "truck", **prompt}))
        logits = served.segmenter.decoded[-1][0].mask_logits
        assert logits is not None
        assert (logits.dtype, logits.shape) == (np.float32, (MASK_SIDE, MASK_SIDE))
        assert (logits.min(), logits.max()) == (-10, 10)
        assert [logits[16, 16], logits[2, 2]] == [10, -10]
        x, y, width, height = answer["bbox"]
        assert np.allclose([x, y, width, height], [15, 10, 30, 20], atol=1)


def test_the_fake_answers_as_the_model_would() -> None:
    """It returns three masks with multimask_output and one without, as the tests in this file assume."""
    segmenter = FakeSegmenter()
    embedding = segmenter.encode([np.zeros((HEIGHT, WIDTH, 3), np.uint8)])[0]
    for multimask, count in ((True, 3), (False, 1)):
        prompt = Prompt(points=((1.0, 1.0),), labels=(1,), multimask_output=multimask)
        (prediction,) = segmenter.decode([(embedding, prompt)])
        assert prediction.logits.shape == (count, MASK_SIDE, MASK_SIDE)
        assert prediction.logits.dtype == prediction.iou.dtype == np.float32
        assert prediction.iou.shape == (count,)
    assert len(IOUS) == len(RADII) == 3


async def test_null_is_a_field_that_is_left_out() -> None:
    nothing = dict.fromkeys(("point_coords", "point_labels", "box", "mask_input", "multimask_output"))
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "truck")
        alone = await served.click("truck")
        listed = await served.post("/decode", {"image_id": "truck", "prompts": [nothing | CLICK], **nothing})
        beside = await served.post("/decode", {"image_id": "truck", "prompts": None, **nothing, **CLICK})
    assert masks_in(listed) == masks_in(beside) == masks_in(alone)
