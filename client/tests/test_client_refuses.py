"""What the client refuses before anything is sent, because it would be changed or go elsewhere on its way."""

import asyncio
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_server import Served
from pycocotools import mask as coco_mask

from sam2_client import AsyncClient, Client, Mask, Prompt, rle
from sam2_client.prompts import to_wire

POINT: dict[str, Any] = {"points": [(30, 20)]}


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (POINT | {"labels": [2]}, "1 .on the object. or 0"),
        (POINT | {"labels": [-1]}, "1 .on the object. or 0"),
        (POINT | {"labels": [0.5]}, "1 .on the object. or 0"),
        (POINT | {"labels": [1.7]}, "1 .on the object. or 0"),
        (POINT | {"labels": [math.nan]}, "1 .on the object. or 0"),
        (POINT | {"labels": ["1"]}, "1 .on the object. or 0"),
        (POINT | {"labels": [None]}, "1 .on the object. or 0"),
        (POINT | {"labels": [[1]]}, "1 .on the object. or 0"),
        (POINT | {"labels": [[1], [1, 0]]}, "1 .on the object. or 0"),
        (POINT | {"labels": 1}, "1 .on the object. or 0"),
        (POINT | {"labels": np.array([3], np.uint8)}, "1 .on the object. or 0"),
        (POINT | {"labels": [1, 0]}, "1 points but 2 labels"),
        (POINT | {"labels": []}, "1 points but 0 labels"),
        ({"box": (1, 2, 30, 20), "labels": [1]}, "0 points but 1 labels"),
        ({"points": [(math.nan, 1)]}, "points has a value that is not finite"),
        ({"points": np.array([[1, np.inf]])}, "points has a value that is not finite"),
        ({"points": [("30", "20")]}, "points cannot be read"),
        ({"points": [(True, False)]}, "points cannot be read"),
        ({"points": [(1, None)]}, "points has a value that is not finite"),
        ({"points": [(1j, 2)]}, "points cannot be read"),
        ({"box": (1, 2, 30, math.inf)}, "box has a value that is not finite"),
        ({"box": ("1", "2", "30", "20")}, "box cannot be read"),
        ({"box": (1, 2, 30, 10**400)}, "box cannot be read"),
        (POINT | {"multimask": 1}, "multimask is 1"),
        (POINT | {"multimask": "yes"}, "multimask is 'yes'"),
        ({"mask": b"U0FN"}, "mask is a bytes"),
        ({"mask": [[0, 1], [1, 1]]}, "mask is a list"),
        ({"mask": {"rle": {"size": [2, 2], "counts": [4]}}}, "it has no 'size'"),
        ({"mask": {"size": [2, 2]}}, "it has no 'counts'"),
        ({"mask": {"size": [2, 2], "counts": [3]}}, "do not add up"),
        ({"mask": {"size": [2, 2], "counts": [1.5, 2.5]}}, "not whole numbers"),
        ({"mask": {"size": [2, 2], "counts": [True, True, True, True]}}, "not whole numbers"),
        ({"mask": {"size": [2, 2], "counts": [[4]]}}, "not whole numbers"),
        ({"mask": {"size": [2.0, 2], "counts": [4]}}, "float"),
        ({"mask": {"size": [2, 2], "counts": b"\xff"}}, "not a COCO string"),
        ({"mask": {"size": [2, 2], "counts": None}}, "not whole numbers"),
    ],
)
def test_prompts_that_the_service_would_refuse(prompt: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        to_wire(Prompt(**prompt))


@pytest.mark.parametrize(
    ("prompt", "wire"),
    [
        ({"labels": np.array([0, 1])}, {"point_labels": [0, 1]}),
        ({"labels": np.array([True, False])}, {"point_labels": [1, 0]}),
        ({"labels": (1.0, 0)}, {"point_labels": [1, 0]}),
        ({"multimask": np.True_}, {"multimask_output": True}),
    ],
)
def test_numpys_own_types_are_taken(prompt: dict[str, Any], wire: dict[str, Any]) -> None:
    points = {"points": [(1, 2), (Fraction(7, 2), 4)]}
    sent = to_wire(Prompt(**points, **prompt))
    assert sent == {"point_coords": [[1.0, 2.0], [3.5, 4.0]], "point_labels": [1, 1]} | wire
    assert all(type(label) is int for label in sent["point_labels"])


def test_masks_of_pycocotools_are_taken_with_their_bytes(client: Client, served: Served, truck: Path) -> None:
    drawn = np.zeros((40, 60), bool)
    drawn[10:30, 15:45] = True
    encoded = coco_mask.encode(np.asfortranarray(drawn.astype(np.uint8)))
    assert isinstance(encoded["counts"], bytes)
    assert np.array_equal(rle.decode(encoded), drawn)
    image = client.embed(truck)
    uncompressed = {"size": np.array([40, 60]), "counts": np.diff([0, 610, 640, 2400])}
    for mask in (encoded, encoded | {"counts": encoded["counts"].decode()}):
        image.decode(mask=mask)
    image.decode(mask=rle.encode(drawn))
    image.decode(mask=uncompressed)
    by_bytes, by_text, by_array, _ = (batch[0].mask_logits for batch in served.segmenter.decoded[-4:])
    assert by_bytes is not None
    assert np.array_equal(by_bytes, by_text)
    assert np.array_equal(by_bytes, by_array)
    value = {"rle": encoded, "iou": 0.9, "stability": 0.9, "area": 600, "bbox": [15, 10, 30, 20]}
    assert np.array_equal(Mask.from_dict(value).to_numpy(), drawn)
    assert isinstance(Mask.from_dict(value).to_dict()["rle"]["counts"], str)


@pytest.mark.parametrize("area", [math.nan, math.inf])
def test_areas_are_finite(client: Client, served: Served, truck: Path, area: float) -> None:
    image = client.embed(truck)
    served.trouble.asked.clear()
    for options in ({"max_hole_area": area}, {"max_sprinkle_area": area}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is {area}"):
            image.decode(points=[(30, 20)], **options)
    assert served.trouble.asked == []


@pytest.mark.parametrize("name", [".", "..", ""])
def test_an_id_that_a_url_loses_is_refused_by_both_clients(
    client: Client, served: Served, truck: Path, name: str
) -> None:
    served.trouble.asked.clear()
    for call in (lambda: client.embed(truck, name), lambda: client.image(name), lambda: client.delete(name)):
        with pytest.raises(ValueError, match="cannot be an id"):
            call()

    async def story() -> None:
        async with AsyncClient(served.url) as waiting:
            for begin in (lambda: waiting.embed(truck, name), lambda: waiting.delete(name)):
                with pytest.raises(ValueError, match="cannot be an id"):
                    await begin()

    asyncio.run(story())
    assert served.trouble.asked == []


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": None}, "timeout is None, but must be a number of seconds above 0"),
        ({"timeout": 0}, "timeout is 0, but"),
        ({"timeout": -1.5}, "timeout is -1.5, but"),
        ({"timeout": float("inf")}, "timeout is inf, but"),
        ({"timeout": float("nan")}, "timeout is nan, but"),
        ({"timeout": "5"}, "timeout is '5', but"),
        ({"timeout": True}, "timeout is True, but"),
        ({"retries": None}, "retries is None, but must be a whole number of at least 0"),
        ({"retries": -1}, "retries is -1, but"),
        ({"retries": 1.5}, "retries is 1.5, but"),
        ({"retries": "3"}, "retries is '3', but"),
        ({"retries": True}, "retries is True, but"),
    ],
)
def test_limits_that_are_none_are_refused_before_the_first_request(
    kind: type[Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        kind("http://127.0.0.1:9", **options)


def test_limits_may_be_numpys(served: Served) -> None:
    with Client(served.url, timeout=np.float32(20), retries=np.int64(0)) as client:
        assert client.model().name
