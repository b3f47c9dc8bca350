"""Masks that are cut and placed as runs by the JavaScript client."""

import numpy as np

from app.codecs.rle import encode_counts
from tests.page.test_client_masks import SHAPES, WIRE, wire
from tests.page.web_tools import WebTool

MOVED = """const { encodeRuns, movedRuns } = await import("/client/runs.js");
  return given.map(([rle, [x0, y0, x1, y1]]) => {
    const [height, width] = rle.size, size = { width: x1 - x0, height: y1 - y0 };
    const ends = decodeRuns(rle.counts, width * height), cut = movedRuns(ends, height, [-x0, -y0], size);
    return [ends, cut, movedRuns(cut, size.height, [x0, y0], { width, height })].map(encodeRuns);
  });"""


def test_masks_are_cut_and_placed_as_pixels_are(tool: WebTool) -> None:
    random = np.random.default_rng(3)
    cases = []
    for shape, mask in zip(SHAPES, WIRE, strict=True):
        height, width = shape.shape
        x0, y0 = random.integers(0, width), random.integers(0, height)
        x1, y1 = random.integers(x0, width) + 1, random.integers(y0, height) + 1
        regions = [(0, 0, width, height), (x0, y0, x1, y1)]
        cases += [(shape, mask["rle"], [int(edge) for edge in region]) for region in regions]
    replies = tool.run(MOVED, *[[rle, region] for _, rle, region in cases])
    for (shape, rle, (x0, y0, x1, y1)), (same, cut, back) in zip(cases, replies, strict=True):
        whole = np.zeros_like(shape)
        whole[y0:y1, x0:x1] = shape[y0:y1, x0:x1]
        assert same == rle["counts"]
        assert cut == wire(shape[y0:y1, x0:x1])["rle"]["counts"]
        assert back == wire(whole)["rle"]["counts"]


def test_runs_of_billions_of_pixels_are_encoded(tool: WebTool) -> None:
    lengths = [[5, 2**30 + 7, 3, 1, 9], [3 * 10**9, 5, 6], [7, 2**32 - 20, 1, 2, 1, 2]]
    script = """const { encodeRuns } = await import("/client/runs.js");
    return given.map((ends) => encodeRuns(Uint32Array.from(ends)));"""
    counts = tool.run(script, *(np.cumsum(runs).tolist() for runs in lengths))
    assert counts == [encode_counts(np.array(runs)) for runs in lengths]
