"""COCO RLE strings: the same as those of pycocotools, and safe to decode from any client."""

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from app.codecs.rle import RleError, decode_counts, encode_counts

VECTORS = [
    ((3, 4), [3, 2, 1, 2, 4], "32103"),
    ((2, 3), [0, 6], "06"),
    ((2, 3), [6], "6"),
    ((1200, 1800), [2160000], "P\\mQ2"),
    ((4, 4), [15, 1], "?1"),  # 15 is the largest number in one group; 16 needs two
    ((4, 4), [16], "`0"),
]


def noise(height: int, width: int, *, seed: int, share: float = 0.5) -> npt.NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    return np.asfortranarray(random.random((height, width)) < share).view(np.uint8)


def lengths_of(mask: npt.NDArray[np.uint8]) -> list[int]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    return [int(n) for n in np.diff(edges, prepend=0, append=flat.size)]


@pytest.mark.parametrize(("size", "lengths", "counts"), VECTORS)
def test_known_vectors_both_ways(size: tuple[int, int], lengths: list[int], counts: str) -> None:
    assert encode_counts(np.array(lengths)) == counts
    assert decode_counts(counts, height=size[0], width=size[1]).tolist() == lengths
    assert decode_counts(lengths, height=size[0], width=size[1]).tolist() == lengths


@pytest.mark.parametrize("share", [0.0, 0.001, 0.03, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (217, 331)])
def test_the_string_is_that_of_pycocotools(size: tuple[int, int], share: float) -> None:
    mask = noise(*size, seed=7, share=share)
    counts = coco.encode(mask)["counts"].decode()
    assert encode_counts(np.array(lengths_of(mask))) == counts
    assert decode_counts(counts, height=size[0], width=size[1]).tolist() == lengths_of(mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_pycocotools_reads_what_we_write() -> None:
    mask = noise(97, 61, seed=1)
    counts = encode_counts(np.array(lengths_of(mask)))
    assert np.array_equal(coco.decode({"size": [97, 61], "counts": counts.encode()}), mask)


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=15).filter(any))
def test_any_lengths_survive_the_round_trip(lengths: list[int]) -> None:
    """At most 5 characters each: pycocotools has room for 6, but forgets the zero after the last."""
    counts = encode_counts(np.array(lengths))
    pixels = sum(lengths)
    assert decode_counts(counts, height=1, width=pixels).tolist() == lengths
    theirs = coco.frPyObjects({"size": [1, pixels], "counts": lengths}, 1, pixels)
    assert counts == theirs["counts"].decode()


def test_the_largest_mask_that_coco_can_hold() -> None:
    lengths = [0, 2**32 - 2, 1, 1]  # the last difference is the most negative one
    counts = encode_counts(np.array(lengths))
    assert decode_counts(counts, height=2**16, width=2**16).tolist() == lengths


def test_encoding_leaves_its_argument_alone() -> None:
    lengths = np.array([3, 2, 1, 2, 4])
    encode_counts(lengths)
    assert lengths.tolist() == [3, 2, 1, 2, 4]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("3210 3", "character 4 is ' '"),
        ("3210p", "character 4 is 'p'"),
        ("3é2103", "character 1 is 'é'"),
        ("32\ud800", "character 2 is '\\\\ud800'"),
        ("32\x00", "character 2"),
        ("3210S", "cut off, character 4"),
        ("32104", "add up to 13 pixels, but size 3 x 4 has 12"),
        ("3210", "add up to 8 pixels"),
        ("", "the 0 runs add up to 0 pixels"),
        ("O<", "run 0 has the length -1"),
        ("321M", "run 3 has the length -1"),
        ("32103PPPPPPP0", "run 5, from character 5 on, has 8 groups"),
        ("PPPPPPPPPPPPPPPPPPPPPPPPPP1", "run 0, from character 0 on, has 27 groups"),
        ("ooooool", "cut off"),
        ("oooooo3", "run 0 has the difference"),
        ("0" * 14, "14 runs for 12 pixels"),
        ([3, 2, 1, 2, 5], "add up to 13"),
        ([], "the 0 runs add up to 0"),
        ([13, -1], "run 0 is 13"),
        ([3, -2, 11], "run 1 is -2"),
        ([3, True, 8], "run 1 is True"),
        ([3, 2.0, 7], "run 1 is 2.0"),
        ([3, "2", 7], "run 1 is '2'"),
        ([10**5000], "an integer of 16610 bits"),
        (["x" * 10**6], "run 0 is 'xxxxx"),
        ([0] * 14, "14 runs for 12 pixels"),
    ],
)
def test_what_is_no_mask_is_refused_with_what_and_where(counts: str | list[int], message: str) -> None:
    with pytest.raises(RleError, match=message) as caught:
        decode_counts(counts, height=3, width=4)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-3, -4), (2**16, 2**16 + 1)])
def test_sizes_that_no_mask_has_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RleError, match="size"):
        decode_counts([], height=size[0], width=size[1])


@given(st.text(alphabet=[chr(c) for c in range(48, 112)], max_size=30))
def test_any_string_is_read_or_refused(counts: str) -> None:
    try:
        lengths = decode_counts(counts, height=5, width=8)
    except RleError:
        return
    assert lengths.sum() == 40
    assert lengths.min() >= 0


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(counts: str) -> None:
    try:
        lengths = decode_counts(counts, height=3, width=5)
    except RleError:
        return
    assert lengths.sum() == 15


@pytest.mark.parametrize("counts", ["P\\mQ2", "PPPPPPP" * 1000, "0" * 10_000, "P\\mQ2" * 1000])
def test_memory_follows_the_string_and_not_the_size_it_claims(counts: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RleError):
            decode_counts(counts, height=2**16, width=2**16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(counts) + 50_000
