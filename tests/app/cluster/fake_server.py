"""`sam2-serve` with fake devices in processes of their own. test_ray.py runs this as its own process.

    python -m tests.app.cluster.fake_server FOLDER OPTIONS

FOLDER/encodes gets a line for each picture that a device encodes. While FOLDER/hold exists, devices
stand still, or the one whose process id it has;
a batch takes as many seconds as FOLDER/slow says.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from app.settings import Settings
from model.types import Embedding, Pixels
from tests.fakes import FakeSegmenter


class Counting(FakeSegmenter):
    """Counts pictures in a file, which outlives the process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(hold=self._stand_still)
        self._folder = folder

    def encode(
        self, images: Sequence[Pixels], *, between: Callable[[], None] = lambda: None
    ) -> list[Embedding]:
        """As in Segmenter."""
        with (self._folder / "encodes").open("a") as file:
            file.write("encoded\n" * len(images))
        return super().encode(images, between=between)

    def _stand_still(self) -> None:
        with suppress(FileNotFoundError):
            while (self._folder / "hold").read_text() in ("", str(os.getpid())):
                time.sleep(0.005)
        with suppress(FileNotFoundError):
            time.sleep(float((self._folder / "slow").read_text()))


def load(settings: Settings) -> FakeSegmenter:
    """Return the model of a device."""
    return Counting(Path(settings.cache_dir).parent)


def main() -> int:
    """Run the command."""
    import app.service.loading
    from tests.app.cluster import fake_server  # by its name, which the devices import

    app.service.loading.load_segmenter = fake_server.load
    import app.__main__

    folder, options = Path(sys.argv[1]), sys.argv[2:]
    return app.__main__.main(
        ["--checkpoint", "untrained", "--cache-dir", str(folder / "cache"), "--port", "0", *options]
    )


if __name__ == "__main__":
    sys.exit(main())
