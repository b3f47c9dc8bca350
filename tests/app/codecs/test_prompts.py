"""Prompts of tracks as the model takes them."""

import numpy as np

from app.codecs.logits import encode_logits
from app.codecs.prompts import PromptRequest, resolve_of_track
from model.masks.runs import runs


def test_logits_as_the_mask_of_a_track_are_the_mask_that_was_shown() -> None:
    """Its outline lies between the values of the logits: their signs alone move it by half of one."""
    rows, columns = np.mgrid[:16, :16]
    logits = (5.2 - np.hypot(rows - 7.3, columns - 8.1)).astype(np.float32)
    request = PromptRequest(mask_input=encode_logits(logits, bytes_per_value=4))
    mask = resolve_of_track(request, height=300, width=400, mask_size=(16, 16))
    assert isinstance(mask, np.ndarray)
    assert np.array_equal(mask, runs(logits, height=300, width=400).to_array())
