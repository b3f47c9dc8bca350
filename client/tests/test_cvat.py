"""The function for CVAT's agents, with a stand-in for cvat-sdk. tests/tools/cvat.py uses the real one."""

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from client_server import Served, real_server
from PIL import Image

from app.settings import Settings
from sam2_client import Client, LargePictureWarning, pictures
from tests.fakes import disc_mask

FRAME = Image.new("RGB", (60, 40), "white")
NOTHING = SimpleNamespace(pos_points=(), neg_points=(), bounding_box=None)
CLICK = SimpleNamespace(pos_points=((30.0, 20.0),), neg_points=(), bounding_box=None)


class BadFunctionError(Exception):
    """Of cvat_sdk.auto_annotation."""


@dataclass(kw_only=True)
class InteractionFunctionSpec:
    min_pos_points: int
    min_neg_points: int | None
    min_bounding_boxes: int | None


@dataclass(kw_only=True)
class AttributeValRequest:
    spec_id: int
    value: str


@dataclass(kw_only=True)
class InteractionResultShape:
    type: str
    points: list[Any]
    attributes: list[AttributeValRequest] = field(default_factory=list)


def encode_mask(bitmap: np.ndarray, bbox: tuple[int, ...]) -> list[Any]:
    """Not CVAT's form, but the same arguments."""
    assert bitmap.dtype == bool
    return [bitmap, bbox]


@pytest.fixture
def create(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """`create` of sam2_client.cvat, imported as cvat-cli does."""
    contents: dict[str, dict[str, Any]] = {
        "cvat_sdk": {},
        "cvat_sdk.models": {"AttributeValRequest": AttributeValRequest},
        "cvat_sdk.masks": {"encode_mask": encode_mask},
        "cvat_sdk.auto_annotation": {
            "BadFunctionError": BadFunctionError,
            "InteractionFunctionContext": object,
            "InteractionFunctionSpec": InteractionFunctionSpec,
            "InteractionPrompts": object,
            "InteractionResultAttributes": SimpleNamespace(CONFIDENCE=0),
            "InteractionResultShape": InteractionResultShape,
        },
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            setattr(sys.modules["cvat_sdk"], name.removeprefix("cvat_sdk."), module)
    cvat = importlib.import_module("sam2_client.cvat")
    functions = []

    def create(**parameters: str) -> Any:
        functions.append(cvat.create(**parameters))
        return functions[-1]

    yield create
    del sys.modules["sam2_client.cvat"]
    for function in functions:
        function._client.close()


def detected(function: Any, frame: Any, prompts: Any) -> tuple[np.ndarray, tuple[int, ...], str]:
    """The mask, its box and its confidence."""
    (shape,) = function.detect(object(), frame, prompts)
    (confidence,) = shape.attributes
    assert (shape.type, confidence.spec_id) == ("mask", 0)
    return shape.points[0], shape.points[1], confidence.value


def test_a_click_on_a_frame(create: Callable[..., Any], served: Served) -> None:
    function = create(server=served.url)
    assert function.spec == InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)
    assert create().spec == function.spec  # create-native needs no address
    frame = function.preprocess_image(object(), FRAME)
    mask, box, confidence = detected(function, frame, CLICK)
    assert (mask == disc_mask(30, 20, 9, height=40, width=60)).all()
    rows, columns = np.nonzero(mask)
    assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert confidence == "1.0000"


def test_prompts_reach_the_server(create: Callable[..., Any], served: Served) -> None:
    function = create(server=served.url)
    frame = function.preprocess_image(object(), FRAME)
    for prompts, points, labels, box in (
        (
            SimpleNamespace(pos_points=((1, 2),), neg_points=((3, 4), (5, 6)), bounding_box=None),
            ((1, 2), (3, 4), (5, 6)),
            (1, 0, 0),
            None,
        ),
        (SimpleNamespace(pos_points=(), neg_points=((3, 4),), bounding_box=None), ((3, 4),), (0,), None),
        (
            SimpleNamespace(pos_points=(), neg_points=(), bounding_box=((50, 5.5), (10, 35))),
            (),
            (),
            (10, 5.5, 50, 35),
        ),
        (
            SimpleNamespace(pos_points=((1, 2),), neg_points=(), bounding_box=((0, 0), (9, 9))),
            ((1, 2),),
            (1,),
            (0, 0, 9, 9),
        ),
    ):
        detected(function, frame, prompts)
        (prompt,) = served.segmenter.decoded[-1]
        assert (prompt.points, prompt.labels, prompt.box) == (points, labels, box)


def test_an_evicted_picture_is_embedded_again(create: Callable[..., Any], served: Served) -> None:
    function = create(server=served.url)
    frame = function.preprocess_image(object(), FRAME)
    with Client(served.url) as client:
        client.delete(frame.image_id)
    served.trouble.asked.clear()
    assert detected(function, frame, CLICK)[0].any()
    assert served.trouble.asked == ["POST /decode", "POST /embed", "POST /decode"]


def test_an_empty_mask_has_a_box_of_one_pixel(create: Callable[..., Any], served: Served) -> None:
    function = create(server=served.url)
    far = SimpleNamespace(pos_points=((-60, -40),), neg_points=(), bounding_box=None)
    mask, box, _ = detected(function, function.preprocess_image(object(), FRAME), far)
    assert not mask.any()
    assert box == (0, 0, 1, 1)


def test_large_frames_are_no_reason_to_warn(
    create: Callable[..., Any], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "LARGE_MIB", 0)
    with pytest.warns(LargePictureWarning), Client(served.url) as client:
        client.embed(FRAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert create(server=served.url).preprocess_image(object(), FRAME).width == 60


def test_users_see_why_but_not_where(create: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    key = "anna-0123456789abcdef"
    with real_server(Settings(workers=2, api_keys=f"anna:{key}")) as served:  # type: ignore[arg-type]
        with pytest.raises(BadFunctionError, match="requires an API key"):
            create(server=served.url).preprocess_image(object(), FRAME)
        function = create(server=served.url, api_key=key)
        frame = function.preprocess_image(object(), FRAME)
        with pytest.raises(BadFunctionError, match="it is empty"):
            function.detect(object(), frame, NOTHING)
    function._client._retries = type(function._client._retries)(0)
    with pytest.raises(BadFunctionError) as failure:
        function.detect(object(), frame, CLICK)
    assert "cannot be reached" in str(failure.value)
    assert served.url not in str(failure.value)
    assert served.url in caplog.text
