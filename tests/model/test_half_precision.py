"""Half precision draws the same masks as float32, on weights that draw areas (tests/bench/discs.py)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.masks.runs import runs
from model.network.config import VARIANTS
from model.network.sam2 import Sam2
from model.runner import Sam2Runner
from model.types import Prompt
from tests.bench.discs import disc_state
from tests.golden.recipe import image

HEIGHT, WIDTH = 600, 900
IMAGE_SIZE = 512
"""Half of the model's: where bfloat16 is emulated, an encode of 1024 takes more than a minute. The bench
(tests/bench/agreement.py) compares masks at full size."""
PROMPTS = [Prompt(points=((x, y),), labels=(1,)) for x, y in ((250.0, 190.0), (700.0, 400.0), (450.0, 300.0))]


@pytest.fixture(scope="module")
def masks_in() -> Callable[[torch.dtype], list[np.ndarray]]:
    state = disc_state()

    def masks(dtype: torch.dtype) -> list[np.ndarray]:
        with torch.device("meta"):
            model = Sam2(replace(VARIANTS["sam2.1_hiera_tiny"], image_size=IMAGE_SIZE))
        buffers = {name for name, _ in model.named_buffers()}
        model.load_state_dict(
            {
                name: state[name].to(torch.float32 if name in buffers else dtype)
                for name in model.state_dict()
            },
            assign=True,
        )
        runner = Sam2Runner(model, name="discs", weights_fingerprint="discs")
        (embedding,) = runner.encode([image("discs", WIDTH, HEIGHT)])
        predictions = runner.decode([(embedding, prompt) for prompt in PROMPTS])
        return [
            runs(logits, height=HEIGHT, width=WIDTH).to_array() for p in predictions for logits in p.logits
        ]

    return masks


def test_bfloat16_changes_at_most_half_a_percent_of_the_pixels(
    masks_in: Callable[[torch.dtype], list[np.ndarray]],
) -> None:
    expected, actual = masks_in(torch.float32), masks_in(torch.bfloat16)
    assert all(0.02 < mask.mean() < 0.8 for mask in expected)
    differing = [(a != b).mean() for a, b in zip(actual, expected, strict=True)]
    assert np.mean(differing) <= 0.005
