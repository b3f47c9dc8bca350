"""`sam2-serve` with fake devices in processes of their own. test_ray.py runs this as its own process.

    python -m tests.app.cluster.fake_server FOLDER OPTIONS

test_cluster.py deploys `devices` with `serve deploy`.

FOLDER/encodes gets a line for each picture that a device encodes. While FOLDER/hold exists, devices
stand still, or the one whose process id it has;
a batch takes as many seconds as FOLDER/slow says.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.settings import Settings
from model.types import Embedding, Pixels, Prediction, Prompt
from tests.fakes import FakeSegmenter


class Counting(FakeSegmenter):
    """Counts pictures in a file, which outlives the process. Decodes embeddings of its own model only."""

    def __init__(self, folder: Path, variant: str) -> None:
        super().__init__(hold=self._stand_still)
        self._folder = folder
        self._mark = float(len(variant))
        self.name = f"fake {variant}"
        self.variant = variant
        self.fingerprint = hashlib.sha256(variant.encode()).hexdigest()

    def encode(
        self, images: Sequence[Pixels], *, between: Callable[[], None] = lambda: None
    ) -> list[Embedding]:
        """As in Segmenter."""
        with (self._folder / "encodes").open("a") as file:
            file.write("encoded\n" * len(images))
        embeddings = super().encode(images, between=between)
        return [replace(each, feat_s0_rows=each.feat_s0_rows * self._mark) for each in embeddings]

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        """As in Segmenter."""
        assert {float(embedding.feat_s0_rows.max()) for embedding, _ in jobs} == {self._mark}
        return super().decode(jobs)

    def _stand_still(self) -> None:
        with suppress(FileNotFoundError):
            while (self._folder / "hold").read_text() in ("", str(os.getpid())):
                time.sleep(0.005)
        with suppress(FileNotFoundError):
            time.sleep(float((self._folder / "slow").read_text()))


def load(settings: Settings) -> FakeSegmenter:
    """Return the model of a device."""
    return Counting(Path(settings.cache_dir).parent, settings.model)


def devices(args: dict[str, Any]) -> Any:
    """Return what `serve deploy` runs: app/cluster/deployed.py with this model."""
    from app.cluster import deployed  # here, because it needs Ray
    from tests.app.cluster import fake_server

    return deployed.devices_with(args, fake_server.load)


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
