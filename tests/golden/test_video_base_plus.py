"""Equal to Meta's SAM2VideoPredictor with the weights of sam2_hiera_base_plus.

A file a model, because a file is run by one process.
"""

import pytest

from tests.golden.video_cases import TOLERANCE, Golden, check_case, check_frames, load

pytestmark = pytest.mark.long  # five minutes, most of it encodes; make test plays the tiny model's cases


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load("sam2_hiera_base_plus")


def test_the_frames_are_those_of_the_goldens(golden: Golden) -> None:
    check_frames(golden)


@pytest.mark.parametrize("name", TOLERANCE)
def test_a_case_equals_metas(golden: Golden, name: str) -> None:
    check_case(golden, name)
