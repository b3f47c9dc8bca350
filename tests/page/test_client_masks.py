"""What the JavaScript client makes of a mask: pixels, rings and paths, compared with pycocotools."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from app.codecs.rle import encode_counts
from tests.page.web_tools import WebTool
from tests.rasters import HARD, rasterised

RANDOM = np.random.default_rng(5)
SHAPES = [RANDOM.random((37, 53)) < share for share in (0, 0.02, 0.5, 0.98, 1)]
SHAPES += [RANDOM.random(size) < 0.5 for size in ((1, 1), (1, 40), (40, 1))]
SHAPES += [np.asarray(mask, bool) for mask in HARD.values()]
"""Nothing, specks, noise with holes in holes, all; lines; and what is hard to outline."""

AREA = """ring.reduce((sum, [x, y], at) => {
  const [x0, y0] = ring.at(at - 1);
  return sum + x0 * y - x * y0;
}, 0) / 2"""


def wire(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask as the server writes it."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "rle": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
        "iou": 0.9,
        "stability": 0.8,
        "area": int(mask.sum()),
        "bbox": coco_mask.toBbox(rle).tolist(),
    }


WIRE = [wire(shape) for shape in SHAPES]


def test_image_data_has_the_pixels_of_pycocotools(tool: WebTool) -> None:
    script = """return given.map((wire) => {
      const { width, height, data } = new Mask(wire).toImageData({ colour: "#102030", opacity: 0.5 });
      let bytes = "";
      for (const byte of data) bytes += String.fromCharCode(byte);
      return [width, height, btoa(bytes)];
    });"""
    for shape, (width, height, data) in zip(SHAPES, tool.run(script, *WIRE), strict=True):
        image = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
        expected = np.where(shape[..., np.newaxis], np.uint8([16, 32, 48, 128]), np.uint8([0, 0, 0, 0]))
        assert np.array_equal(image, expected)


def test_exact_rings_enclose_as_many_pixels_as_the_mask_has_and_the_same(tool: WebTool) -> None:
    script = f"""return JSON.stringify(given.map((wire) => {{
      const mask = new Mask(wire), {{ polygons, holes }} = mask.toOutline({{ smooth: false }});
      const areas = [polygons, holes].map((rings) => rings.map((ring) => {AREA}));
      return {{ polygons, holes, areas, path: mask.toSvgPath({{ smooth: false }}) }};
    }}));"""
    for shape, drawn in zip(SHAPES, json.loads(tool.run(script, *WIRE)), strict=True):
        outer, inner = drawn["areas"]
        assert sum(outer) + sum(inner) == shape.sum()
        assert all(area > 0 for area in outer)
        assert all(area < 0 for area in inner), "holes run the other way"
        assert np.array_equal(rasterised(drawn["polygons"] + drawn["holes"], shape.shape), shape)
        rings = [ring for ring in drawn["path"].split("Z") if ring]
        points = [
            [[float(value) for value in point.split(",")] for point in ring.removeprefix("M").split("L")]
            for ring in rings
        ]
        assert points == drawn["polygons"] + drawn["holes"]


@pytest.mark.parametrize("rule", ["nonzero", "evenodd"])
def test_a_filled_path_is_the_mask_with_its_holes_by_both_rules(tool: WebTool, rule: Any) -> None:
    script = """const [rule, ...wires] = given;
    return wires.map((wire) => {
      const mask = new Mask(wire), { width, height } = mask.size;
      const context = new OffscreenCanvas(width, height).getContext("2d");
      context.fill(mask.toPath2D({ smooth: false }), rule);
      const { data } = context.getImageData(0, 0, width, height);
      return data.filter((_, at) => at % 4 === 3).reduce((sum, opacity) => sum + opacity, 0) / 255;
    });"""
    areas = tool.run(script, rule, *WIRE)
    assert areas == [pytest.approx(shape.sum(), abs=1e-6) for shape in SHAPES]


def test_a_mask_of_another_size_is_refused(tool: WebTool) -> None:
    broken = WIRE[2] | {"rle": WIRE[2]["rle"] | {"size": [37, 54]}}
    said = tool.run("try { new Mask(given[0]).ends } catch (error) { return String(error) }", broken)
    assert said == "RangeError: The mask has 1961 pixels, but the picture has 1998."


@pytest.mark.parametrize("runs", [[5, 2**30 + 7, 3, 1, 9], [3 * 10**9, 5, 6], [7, 2**32 - 20, 1, 2, 1, 2]])
def test_runs_of_billions_of_pixels_keep_their_ends(tool: WebTool, runs: list[int]) -> None:
    wire = WIRE[0] | {"rle": {"size": [1, sum(runs)], "counts": encode_counts(np.array(runs))}}
    assert tool.run("return [...new Mask(given[0]).ends]", wire) == np.cumsum(runs).tolist()
