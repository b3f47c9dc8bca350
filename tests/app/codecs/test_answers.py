"""From a prediction to masks in the requested format."""

from dataclasses import replace

import numpy as np

from app.codecs.answers import MaskOptions, answer
from model.masks.runs import Runs
from model.types import Prediction
from tests.fakes import IOUS, disc

NOTHING = Runs(1, 1, np.array([1]))
"""In place of runs, which do not compare as one value."""


def test_the_best_mask_alone_is_the_first_of_all_and_the_others_are_not_shaped() -> None:
    logits = np.stack([disc(0.5, 0.5, radius) for radius in (3.0, 6.0, 9.0)])
    prediction = Prediction(logits, np.array([IOUS[1], IOUS[2], IOUS[0]], np.float32), 1.0)
    shaped = 0

    def count() -> None:
        nonlocal shaped
        shaped += 1

    whole = answer(prediction, height=40, width=60, options=MaskOptions(), logit_bytes=4)
    best = answer(
        prediction, height=40, width=60, options=MaskOptions(best_only=True), logit_bytes=4, check=count
    )
    assert [replace(mask, runs=NOTHING) for mask in best] == [replace(whole[0], runs=NOTHING)]
    assert best[0].runs.lengths.tolist() == whole[0].runs.lengths.tolist()
    assert shaped == 1
