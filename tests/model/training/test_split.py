"""The photographs held out: in no scene, not many objects of each, and what kind each object is."""

from dataclasses import replace

import numpy as np
import pytest

from model.training.pack import HELD_OUT_SHARE, HELD_OUT_SHARES, Mask, Pack, Picture
from model.training.split import OBJECTS_EACH, VALIDATION_SHARE, Kind, cases, chosen, kinds_of
from tests.model.training.packs import background, disc, encoded, photograph, striped


def many(source: str, count: int = 3000) -> tuple[Picture, ...]:
    one = photograph(source=source)
    return tuple(replace(one, file=f"{number:012}.jpg") for number in range(count))


def showing(*masks: Mask, file: str = "a.jpg") -> Picture:
    return Picture(striped(*masks[0].shape, 40), tuple(map(encoded, masks)), "coco-cc", file)


def bar(left: int, top: int, w: int, h: int) -> Mask:
    """(200, 300): a rectangle."""
    mask = np.zeros((200, 300), np.bool_)
    mask[top : top + h, left : left + w] = True
    return mask


@pytest.mark.parametrize("source", ["coco-cc", "dsb2018", "another"])
def test_each_source_is_held_out_by_its_share(source: str) -> None:
    pack = Pack(many(source), (), ())
    share = HELD_OUT_SHARES.get(source, HELD_OUT_SHARE)
    assert len(pack.held_out().photographs) / 3000 == pytest.approx(share, rel=0.2)
    assert len(pack.held_out().photographs) + len(pack.training().photographs) == 3000


def test_what_is_held_out_of_one_source_is_trained_on_in_none() -> None:
    """The names of coco-cc, of which more is held out, among another set's photographs and the backgrounds."""
    pictures = many("coco-cc", 60)
    others = tuple(replace(x, source="coco-mini", file=f"other/{x.name}.png") for x in pictures)
    grounds = tuple(replace(background(), file=x.file) for x in pictures)
    pack = Pack((*others, *pictures), (), grounds)
    names = {x.name for x in pack.held_out().photographs}
    assert {x.name for x in pictures if x.is_held_out} == names
    assert len(names) > 5
    training = pack.training()
    assert not names & {x.name for x in (*training.photographs, *training.backgrounds)}
    assert len(training.backgrounds) == 60 - len(names)


def test_earlier_weights_did_not_see_what_is_held_out_of_their_sources() -> None:
    """They were trained on all photographs of these four but the lowest 0.06."""
    for source in ("coco-mini", "coco128-seg", "balloon", "dsb2018"):
        assert HELD_OUT_SHARES.get(source, HELD_OUT_SHARE) <= 0.06


def test_few_objects_of_a_photograph_are_clicked_at_and_of_each_size_one() -> None:
    windows = [bar(10 + 25 * x, 10 + 25 * y, 15, 15) for x in range(10) for y in range(3)]
    facade, door = bar(0, 0, 300, 150), bar(100, 90, 80, 60)
    picture = showing(*windows, facade, door)
    numbers = chosen(picture)
    assert len(numbers) == OBJECTS_EACH
    assert {30, 31} < set(numbers)
    assert numbers == chosen(showing(*windows, facade, door))
    assert numbers != chosen(showing(*windows, facade, door, file="b.jpg"))
    assert chosen(showing(bar(0, 0, 5, 5))) == []


def test_validation_has_some_of_the_split() -> None:
    pack = Pack(many("coco-cc", 400), (), ())
    every, some = list(cases(pack)), list(cases(pack, share=VALIDATION_SHARE))
    assert {x.picture.file for x in some} < {x.picture.file for x in every}
    assert 0.1 < len(some) / len(every) < 0.4
    assert [len(x.targets) for x in some] == [2] * len(some)


def test_small_and_thin() -> None:
    picture = showing(bar(10, 10, 20, 20), bar(10, 60, 200, 20), bar(10, 110, 60, 60), bar(290, 0, 10, 200))
    assert [kinds_of(picture, index) for index in range(4)] == [
        {Kind.SMALL},
        {Kind.THIN},
        set(),
        {Kind.THIN},
    ]


def test_neighbours_touch_and_a_part_does_not() -> None:
    left, right, apart = bar(10, 10, 60, 60), bar(70, 10, 60, 60), bar(200, 120, 50, 50)
    inner = bar(20, 20, 30, 30)
    picture = showing(left, right, apart, inner)
    assert kinds_of(picture, 0) == {Kind.TOUCHING, Kind.WHOLE}
    assert kinds_of(picture, 1) == {Kind.TOUCHING}
    assert kinds_of(picture, 2) == set()
    assert kinds_of(picture, 3) == {Kind.PART}


def test_the_same_object_twice_is_neither_part_nor_whole() -> None:
    one = disc(200, 300, centre=(150, 100), radius=50)
    assert kinds_of(showing(one, one), 0) == set()
    corner = bar(10, 10, 40, 40)
    assert Kind.TOUCHING not in kinds_of(showing(corner, bar(50, 50, 40, 40)), 0)
