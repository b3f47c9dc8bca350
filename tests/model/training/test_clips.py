"""Clips: the same for the same number, and what each kind promises happens to the object that is followed."""

from dataclasses import replace

import numpy as np
import pytest

from model.training.clips import Clips, cut_out
from model.training.moving import ClipKind, subject_path
from model.training.pack import Pack, PackError
from tests.model.training.packs import RED, background, cutout, disc, photograph

PACK = Pack((photograph("a.jpg"), photograph("b.jpg", tint=90)), (), (background(),))
SIDE, FRAMES = 64, 9


def clips(seed: int = 0) -> Clips:
    return Clips(PACK, side=SIDE, frames=FRAMES, seed=seed)


def test_a_clip_is_a_function_of_its_number() -> None:
    one, again, other = clips()[3], clips()[3], clips(1)[3]
    assert (one.frames == again.frames).all()
    assert (one.masks == again.masks).all()
    assert (one.frames != other.frames).any()
    assert one.frames.shape == (FRAMES, SIDE, SIDE, 3)
    assert one.masks.shape == (FRAMES, SIDE, SIDE)


def test_kinds_come_in_turn_and_the_object_is_on_the_first_frame() -> None:
    found = list(clips().first(10))
    assert [each.kind for each in found] == list(ClipKind) * 2
    assert all(each.masks[0].any() for each in found)


def test_the_camera_moves_and_the_mask_is_where_the_object_is() -> None:
    for clip in clips().first(5):
        assert (clip.frames[0] != clip.frames[-1]).any(axis=-1).mean() > 0.3
        inner = clip.frames[0][clip.masks[0]].astype(int)
        assert (inner.max(axis=1) - inner.min(axis=1) > 100).mean() > 0.8  # red or green, as the things are


def test_what_vanishes_is_away_for_a_while_and_comes_back() -> None:
    for number in (4, 9, 14):
        seen = clips()[number].masks.any(axis=(1, 2))
        assert seen[0]
        assert seen[-1]
        assert not seen.all()


def test_what_is_hidden_is_seen_less_in_the_middle() -> None:
    for number in (3, 8):
        areas = clips()[number].masks.sum(axis=(1, 2))
        assert areas[FRAMES // 2 - 1 : FRAMES // 2 + 2].min() < 0.9 * max(areas[0], areas[-1])


def test_what_scales_changes_its_size_and_what_turns_its_angle() -> None:
    for seed in range(5):
        scaled = subject_path(ClipKind.SCALE, FRAMES, np.random.default_rng(seed)).sizes
        assert not 0.65 < scaled[-1] / scaled[0] < 1.5
        turned = subject_path(ClipKind.TURN, FRAMES, np.random.default_rng(seed)).turns
        assert abs(turned[-1] - turned[0]) >= 1


def test_a_cut_out_has_the_colour_of_its_instance_and_no_ground() -> None:
    picture = photograph()
    rgba = cut_out(picture.pixels, picture.mask(0))
    assert rgba.shape[:2] == (73, 73)
    assert tuple(rgba[36, 36]) == (*RED, 255)
    assert rgba[0, 0, 3] == 0
    assert (rgba[..., 3] >= 128).sum() == pytest.approx(
        disc(120, 160, centre=(55, 60), radius=34).sum(), rel=0.03
    )


def test_cut_outs_of_the_pack_are_followed_too() -> None:
    pack = replace(PACK, cutouts=(cutout(),))
    made = list(Clips(pack, side=SIDE, frames=2).first(20))
    white = [(each.frames[0][each.masks[0]] > 200).all(axis=-1).mean() > 0.5 for each in made]
    assert 0 < sum(white) < 20


def test_a_pack_without_instances_is_refused() -> None:
    with pytest.raises(PackError, match="large enough"):
        Clips(Pack((), (), (background(),)))
