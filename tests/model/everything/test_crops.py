"""Where "everything" clicks: own points, regions, crops of small pictures."""

import numpy as np
import pytest

from model.everything.crops import Crop, Pattern, crop_boxes, plan


def on_picture(crop: Crop) -> list[list[float]]:
    return (crop.points + np.array(crop.box[:2])).round(6).tolist()


def test_a_region_gets_the_grid_and_is_divided_into_crops_while_the_whole_picture_is_seen() -> None:
    pattern = Pattern(points_per_side=4, crop_n_layers=1, region=(100.2, 50.0, 199.5, 100.0))
    whole, *crops = plan(pattern, height=200, width=400)
    assert whole.box == (0, 0, 400, 200)
    assert len(whole.points) == 16
    assert on_picture(whole)[0] == [112.5, 56.25]
    assert len(crops) == 4
    for crop in crops:
        x0, y0, x1, y1 = crop.box
        assert 100 <= x0 < x1 <= 200
        assert 50 <= y0 < y1 <= 100
        assert (crop.points > 0).all()
        assert (crop.points < (x1 - x0, y1 - y0)).all()
    assert {(c.box[0], c.box[1]) for c in crops} >= {(100, 50)}
    assert max(c.box[2] for c in crops) == 200


def test_own_points_are_fractions_of_the_picture_and_a_crop_gets_those_on_it() -> None:
    pattern = Pattern(points=[[0.1, 0.1], [0.9, 0.8]], crop_n_layers=1, crop_overlap_ratio=0.0)
    crops = plan(pattern, height=100, width=200)
    assert [crop.box for crop in crops] == [(0, 0, 200, 100), (0, 0, 100, 50), (100, 50, 200, 100)]
    assert on_picture(crops[0]) == [[20.0, 10.0], [180.0, 80.0]]
    assert [on_picture(crop) for crop in crops[1:]] == [[[20.0, 10.0]], [[180.0, 80.0]]]


def test_own_points_outside_the_region_are_left_out() -> None:
    pattern = Pattern(points=[[0.1, 0.1], [0.9, 0.8]], region=(0, 0, 50, 50))
    (whole,) = plan(pattern, height=100, width=200)
    assert on_picture(whole) == [[20.0, 10.0]]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (Pattern(points=[[0.9, 0.9]], region=(0, 0, 5, 5)), "no point is left"),
        (Pattern(region=(10, 10, 10, 20)), "holds no pixel"),
        (Pattern(region=(400, 0, 500, 50)), "holds no pixel"),
        (Pattern(points_per_side=3, crop_n_layers=2, crop_n_points_downscale_factor=2), "layer 2"),
    ],
)
def test_what_leaves_nothing_to_click_at_is_said(pattern: Pattern, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan(pattern, height=100, width=200)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (3, 2), (5, 300)])
def test_crops_of_a_tiny_picture_hold_pixels_and_cover_it(width: int, height: int) -> None:
    boxes = crop_boxes(height=height, width=width, layers=3, overlap_ratio=0.3)
    for layer in range(4):
        covered = np.zeros((height, width), bool)
        for (x0, y0, x1, y1), its_layer in boxes:
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            if its_layer == layer:
                covered[y0:y1, x0:x1] = True
        assert covered.all()
