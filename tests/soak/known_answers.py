"""A server with known answers: the command `python -m app` with a segmenter that computes discs.

    SAM2_CHECKPOINT=untrained SAM2_PORT=0 python -m tests.soak.known_answers ENCODE_MS DECODE_MS

Everything except the model is as users run it. The radius of a click's disc depends on the picture's mean grey,
so a mask from another picture's embedding is a different mask. Each encode takes ENCODE_MS, each batch of clicks
DECODE_MS.
"""

import sys
import time
from collections.abc import Callable, Sequence

from app import __main__ as command
from app import main
from model.types import Embedding, Pixels, Prediction, Prompt
from tests.fakes import FakeSegmenter, disc

_SLICES = 10
"""Number of parts of an encode. Clicks may run between them, as between the layers of the model."""


class KnownAnswers(FakeSegmenter):
    """Draws discs whose radius depends on the picture's grey. Keeps no record of requests, because it runs long."""

    def __init__(self, *, encode_ms: float, decode_ms: float) -> None:
        super().__init__(embedding_side=16)
        self._encode_s, self._decode_s = encode_ms / 1000, decode_ms / 1000

    def encode(
        self, images: Sequence[Pixels], *, between: Callable[[], None] = lambda: None
    ) -> list[Embedding]:
        """Encode in slices, as slowly as requested."""
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
    """Run the command with this segmenter instead of the model."""
    encode_ms, decode_ms = map(float, sys.argv[1:])
    main.load_segmenter = lambda settings: KnownAnswers(encode_ms=encode_ms, decode_ms=decode_ms)  # type: ignore[assignment]
    return command.main([])


if __name__ == "__main__":
    sys.exit(serve())
