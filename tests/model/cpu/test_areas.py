"""Areas cover a map once, consist of whole windows, and keep threads equally busy."""

import pytest
import torch

from model.cpu.areas import Area, Canvas, areas_of, strips_of
from model.network.hiera import partition_windows

MAPS = [(64, 64, 14, 2), (64, 64, 14, 4), (64, 64, 16, 2), (22, 22, 14, 2), (8, 8, 14, 3), (5, 9, 1, 2)]


def cells_of(areas: list[Area], height: int, width: int) -> torch.Tensor:
    count = torch.zeros(1, height, width, 1)
    for area in areas:
        area.of(count).add_(1)
    return count


@pytest.mark.parametrize(("height", "width", "side", "threads"), MAPS)
def test_they_cover_a_map_once_by_whole_windows(height: int, width: int, side: int, threads: int) -> None:
    areas = areas_of(height, width, side=side, threads=threads)
    assert (cells_of(areas, height, width) == 1).all()
    assert all(each.start % side == 0 for area in areas for each in area)
    assert all(area.size == area.of(torch.empty(1, height, width, 1)).numel() for area in areas)
    assert areas == sorted(areas, key=lambda area: -area.size)


@pytest.mark.parametrize(
    ("side", "threads", "count"),
    [
        pytest.param(14, 1, 1, id="one thread, the whole map"),
        pytest.param(16, 2, 4, id="rows of windows are as good as it gets"),
        pytest.param(14, 2, 10, id="rows would leave a thread waiting for a ninth of the time"),
        pytest.param(64, 2, 1, id="one window"),
    ],
)
def test_no_more_areas_than_keep_the_threads_busy(side: int, threads: int, count: int) -> None:
    assert len(areas_of(64, 64, side=side, threads=threads)) == count


@pytest.mark.parametrize(("height", "count", "rows"), [(64, 4, [16] * 4), (14, 3, [4, 4, 6]), (6, 9, [4, 2])])
def test_strips(height: int, count: int, rows: list[int]) -> None:
    strips = strips_of(height, 10, side=4, count=count)
    assert [area.rows.stop - area.rows.start for area in strips] == rows
    assert (cells_of(strips, height, 10) == 1).all()


def test_half_the_area_is_that_of_a_pooled_map() -> None:
    assert Area(slice(14, 28), slice(0, 22)).halved() == Area(slice(7, 14), slice(0, 11))


def test_a_canvas_takes_maps_and_windows() -> None:
    x, canvas = torch.randn(1, 8, 12, 3), Canvas(8, 12)
    upper, lower = strips_of(8, 12, side=4, count=2)
    canvas.draw(lower, lower.of(x))
    canvas.draw(upper, partition_windows(upper.of(x), 4))
    assert torch.equal(canvas.whole, x)
