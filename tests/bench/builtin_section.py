"""Section builtin: the model that the project ships, on pictures with objects. Every side has its weights.

The other sections use Meta's shapes with weights that draw discs. Here a trained model draws the masks. Every
side decodes our embeddings, because transformers' trunk has no global attention in a block that pools, as this
model has.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model.checkpoints.download import BUILTIN_PATH
from model.network.config import BUILTIN
from model.runner import load_runner
from model.training.export import read_weights
from model.types import Pixels, Prompt
from tests.bench.agreement import check
from tests.bench.peer_transformers import Transformers
from tests.bench.report import HALF, TRANSFORMERS, Row, timed_rows
from tests.bench.sides import Ours, Side
from tests.bench.timing import take_turns
from tests.bench.traffic import HEIGHT, WIDTH
from tests.bench.workbench import Workbench

SCENES = Path(__file__).parents[1] / "data" / "scenes"


def builtin(bench: Workbench) -> list[Row]:
    """Time a click on an object of each picture, up to the RLE of three masks."""
    state = read_weights(BUILTIN_PATH)
    pictures, clicks = scenes(width=WIDTH, height=HEIGHT)
    runners = {
        name: load_runner(BUILTIN, checkpoint=BUILTIN_PATH, device="cpu", dtype=name.removeprefix("ours "))
        for name in bench.ours
    }
    embeddings = {
        name: [runner.encode([picture])[0] for picture in pictures] for name, runner in runners.items()
    }
    transformers = Transformers(state, pictures, name=TRANSFORMERS, dtype=torch.float32, variant=BUILTIN)
    maps = [embedding.to_arrays(np.float32) for embedding in embeddings[bench.ours[0]]]
    peers = [transformers, *bench.graph_peers(state, pictures, variant=BUILTIN)]
    for peer in peers:
        peer.take(maps)
    sides: list[Side] = [*peers]
    sides += [Ours(runner, embeddings[name], name=name) for name, runner in runners.items()]

    rows = []
    for picture, click in enumerate(clicks):
        case = f"a click on picture {picture + 1}"
        rows += check(sides, [click], case=case, size=(HEIGHT, WIDTH), half=HALF, picture=picture)
    calls = {side.name: partial(_one_by_one, side, clicks) for side in sides}
    times = take_turns(calls, bench.effort(30, quick_seconds=5))
    each = {name: [t / len(clicks) for t in seconds] for name, seconds in times.items()}
    return rows + timed_rows("builtin", f"a click with RLE, mean of {len(clicks)} pictures", each)


def scenes(*, width: int, height: int) -> tuple[list[Pixels], list[Prompt]]:
    """Return the pictures of tests/data/scenes enlarged to this size, and a click on an object of each."""
    pictures, clicks = [], []
    for record in json.loads((SCENES / "scenes.json").read_text()):
        with Image.open(SCENES / record["file"]) as stored:
            x, y = record["click"]
            clicks.append(
                Prompt(points=((x * width / stored.width, y * height / stored.height),), labels=(1,))
            )
            pictures.append(np.array(stored.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)))
    return pictures, clicks


def _one_by_one(side: Side, clicks: Sequence[Prompt]) -> None:
    for picture, click in enumerate(clicks):
        side.answer(picture, [click])
