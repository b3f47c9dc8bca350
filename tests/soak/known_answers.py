"""A server whose answers are known: the command `python -m app`, and a segmenter that computes discs.

    SAM2_CHECKPOINT=untrained SAM2_PORT=0 python -m tests.soak.known_answers ENCODE_MS DECODE_MS

All but the model is what users run. A picture's mean grey decides how large the disc of a click is, so a mask made
from another picture's embedding is another mask. Each encode and each batch of clicks takes the time it is told.
"""

import sys
import time
from collections.abc import Callable, Sequence

from app import __main__ as command
from app import main
from model.types import Embedding, Pixels, Prediction, Prompt
from tests.fakes import FakeSegmenter, disc

_SLICES = 10
"""Clicks may pass between these parts of an encode, as they do between the layers of the model."""


class KnownAnswers(FakeSegmenter):
    """Discs whose radius is that of their picture's grey. Keeps nothing of what it was asked, for it runs long."""

    def __init__(self, *, encode_ms: float, decode_ms: float) -> None:
        super().__init__(embedding_side=16)
        self._encode_s, self._decode_s = encode_ms / 1000, decode_ms / 1000

    def encode(
        self, images: Sequence[Pixels], *, between: Callable[[], None] = lambda: None
    ) -> list[Embedding]:
        """As slow as it is told, in slices."""
        for _ in range(_SLICES):
            time.sleep(self._encode_s * len(images) / _SLICES)
            between()
        return super().encode(images)

    def _run(self, what: str) -> None:
        if what == "decode":
            time.sleep(self._decode_s)
        self.encoded.clear()
        self.decoded.clear()
        self.order.clear()

    def _predict(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        prediction = super()._predict(embedding, prompt)
        if prompt.points:
            x, y = prompt.points[0]
            grey = float(embedding.image_rows[0, 0])
            largest = disc(x / embedding.width, y / embedding.height, 2 + grey / 20)
            prediction.logits[-1] = largest
        return prediction


def serve() -> int:
    """Run the command with this segmenter in the model's place."""
    encode_ms, decode_ms = map(float, sys.argv[1:])
    main.load_segmenter = lambda settings: KnownAnswers(encode_ms=encode_ms, decode_ms=decode_ms)  # type: ignore[assignment]
    return command.main([])


if __name__ == "__main__":
    sys.exit(serve())
