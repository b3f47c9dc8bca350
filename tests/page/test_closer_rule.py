"""Which part of a picture the page looks at: the rule by which closer looks were measured."""

import numpy as np

from model.training.clicks import Click
from model.training.zooming import Crop, crop_for
from tests.page.web_tools import WebTool


def test_the_rule_is_that_of_the_measurement(tool: WebTool) -> None:
    """The same part, but for how ends are rounded; that decides seldom whether a part is kept."""
    random, width, height = np.random.default_rng(5), 160, 120
    whole = now = Crop(0, 0, width, height)
    cases, expected = [], []
    for turn in range(300):
        if turn % 5 == 0:  # another object; between, it changes a little
            sides = [np.sort(random.choice(most, 2, replace=False)) for most in (width, height)]
        (x0, x1), (y0, y1) = (np.clip(side + random.integers(-3, 4, 2), 0, None) for side in sides)
        mask = np.zeros((height, width), bool)
        mask[y0 : y1 + 5, x0 : x1 + 5] = True
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        clicks = [Click(int(random.choice(columns)), int(random.choice(rows)), is_object=True) for _ in "ab"]
        bbox = [int(columns[0]), int(rows[0]), len(columns), len(rows)]
        previous = {"area": 1, "bbox": bbox, "region": None if now == whole else list(now)}
        points = [[click.x, click.y, 1] for click in clicks]
        cases.append({"previous": previous, "points": points, "box": None})
        before, now = now, crop_for(mask, clicks, now=now)
        expected.append((now, "whole" if now == whole else "kept" if now == before else "new"))
    script = """const { regionFor } = await import("/page/closer.js"), [size, cases] = given;
    return cases.map((prompt) => regionFor(prompt, size));"""
    regions = tool.run(script, {"width": width, "height": height}, cases)
    parts = [
        np.abs(np.subtract(region or whole, crop))
        for region, (crop, _) in zip(regions, expected, strict=True)
    ]
    assert np.mean([part.max() <= 2 for part in parts]) > 0.98
    kinds = [kind for _, kind in expected]
    assert min(kinds.count(kind) for kind in ("whole", "kept", "new")) > 20
