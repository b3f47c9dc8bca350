"""What scenes are made of: photographs by their source, objects by their size, never by mask."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.training.canvas import Canvas, Kind
from model.training.pack import Pack, Picture
from model.training.sampling import SIZE_WEIGHTS, SOURCE_SHARES, by_source, draw_object, drawable
from model.training.scenes import Scenes
from model.training.segments import with_segments
from model.training.views import view_of
from tests.model.training.packs import background, disc, encoded, photograph, striped


def crowd() -> Picture:
    """(240, 320): a hundred small discs beside a large one."""
    small = [
        disc(240, 320, centre=(20 + 12 * x, 20 + 12 * y), radius=5.7) for x in range(10) for y in range(10)
    ]
    masks = [*small, disc(240, 320, centre=(240, 120), radius=70)]
    return Picture(striped(240, 320, 40), tuple(map(encoded, masks)), "mushrooms", "m.jpg")


def test_a_source_has_its_share_however_many_photographs_it_has() -> None:
    pictures = [replace(photograph(), source="coco-mini")] * 2 + [
        replace(photograph(), source="facades")
    ] * 300
    drawn, rng = by_source(pictures), np.random.default_rng(0)
    counts = Counter(drawn.one(rng).source for _ in range(4000))
    wanted = SOURCE_SHARES["coco-mini"] / (SOURCE_SHARES["coco-mini"] + SOURCE_SHARES["facades"])
    assert abs(counts["coco-mini"] / 4000 - wanted) < 0.03


def test_everyday_scenes_are_most_of_what_is_drawn() -> None:
    everyday = ("coco-mini", "coco128-seg", "coco-cc", "coco-cc-person", "openimages-animals")
    assert sum(SOURCE_SHARES[x] for x in everyday) > 0.7 * sum(SOURCE_SHARES.values())


def test_an_object_is_drawn_by_its_size_and_not_by_how_many_there_are() -> None:
    picture, rng = crowd(), np.random.default_rng(0)
    among = drawable(picture)
    assert len(among) == 101
    counts = Counter(draw_object(picture, among, rng) == 100 for _ in range(2000))
    wanted = SIZE_WEIGHTS[2] / (SIZE_WEIGHTS[0] + SIZE_WEIGHTS[2])
    assert abs(counts[True] / 2000 - wanted) < 0.04
    assert draw_object(picture, among[:3], rng) in (0, 1, 2)


def test_a_view_of_a_crowd_notes_what_is_in_view() -> None:
    """The four largest of the photograph may all be elsewhere."""
    scenes = Scenes(Pack((crowd(),), (), ()), side=96, masks_per_scene=4, seed=0)
    views = [scenes._seen(crowd(), np.random.default_rng(number), most=4) for number in range(40)]
    of_one = [canvas for canvas in views if any(c.is_subject for c in canvas.candidates)]
    assert 0.5 < len(of_one) / len(views) < 0.9
    assert all(len(canvas.candidates) <= 4 for canvas in views)
    noted = [c.mask.any() for canvas in of_one for c in canvas.candidates]
    assert np.mean(noted) > 0.9


def test_the_object_that_a_view_is_of_is_drawn_first() -> None:
    canvas = Canvas(striped(100, 100, 0))
    canvas.add(disc(100, 100, centre=(50, 50), radius=45), Kind.OBJECT)
    canvas.add(disc(100, 100, centre=(50, 50), radius=5), Kind.OBJECT, is_subject=True)
    for seed in range(10):
        assert canvas.choose(1, np.random.default_rng(seed))[0].sum() < 100


def test_bounds_of_a_view_are_what_it_shows() -> None:
    view = view_of((30.0, 20.0), (20.0, 10.0), 50)
    np.testing.assert_allclose(view.bounds, (20.2, 15.1, 40.8, 25.9), atol=1e-9)


def test_regions_are_found_only_where_all_is_annotated(tmp_path: Path) -> None:
    """A region across a person that nobody annotated would be learnt as a thing with a wrong outline."""
    sources = ("coco-mini", "coco-cc", "coco-cc-person", "openimages-animals", "balloon", "boards", "another")
    pack = with_segments(Pack(tuple(photograph(source=x) for x in sources), (), (background(),)), tmp_path)
    assert [bool(x.segments) for x in pack.photographs] == [x == "coco-mini" for x in sources]
    assert not pack.backgrounds[0].segments
