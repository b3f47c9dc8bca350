"""Shared by the sections: weights, pictures, prompts, sides and the server, each created on first use.

Does not know about time.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import torch

from model.cpu.threads import set_up_thread
from model.runner import Sam2Runner, load_runner
from model.types import Embedding, Pixels, Prompt
from tests.bench.discs import disc_state
from tests.bench.earlier import runner_module
from tests.bench.peer_onnx import OnnxRuntime
from tests.bench.peer_openvino import OpenVinoDecoder
from tests.bench.peer_transformers import Transformers
from tests.bench.plain_decoder import GraphPeer, export
from tests.bench.report import ONNX, OPENVINO, OURS, TRANSFORMERS
from tests.bench.server import RunningServer, serve
from tests.bench.sides import Ours, Side
from tests.bench.timing import Effort
from tests.bench.traffic import HEIGHT, WIDTH
from tests.bench.weights import VARIANT, plain_model, save_checkpoint
from tests.golden.recipe import image

CROWD = 16
CLICK = Prompt(points=((500.0, 375.0),), labels=(1,))


class Workbench:
    """Everything that the sections measure, and the effort for it."""

    def __init__(
        self, *, quick: bool, num_threads: int, before: str | None = None, ours: Sequence[str] = OURS
    ) -> None:
        """`before` is a commit whose encoder takes part; `ours` are the names of our sides."""
        self.quick = quick
        self.num_threads = num_threads
        self.before = before
        self.ours = tuple(ours)
        set_up_thread(num_threads, cpus=None)  # for the peers too
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="sam2-bench-")))

    def close(self) -> None:
        """Stop the server and remove all files."""
        self._stack.close()

    def effort(self, seconds: float, *, quick_seconds: float, least: int = 5, warm_up: int = 1) -> Effort:
        """Return the effort for one case. A quick run makes do with two rounds of slow cases."""
        if self.quick:
            return Effort(quick_seconds, least=2, warm_up=warm_up)
        return Effort(seconds, least=least, warm_up=warm_up)

    @cached_property
    def state(self) -> dict[str, torch.Tensor]:
        """The weights of every side."""
        return disc_state(VARIANT)

    @cached_property
    def checkpoint(self) -> Path:
        """The weights as a file for SAM2_CHECKPOINT."""
        return save_checkpoint(self.state, self.folder / "bench.safetensors")

    def runner(self, dtype: str) -> Sam2Runner:
        """Return a runner on the CPU, as the service loads it."""
        return load_runner(VARIANT, checkpoint=self.checkpoint, device="cpu", dtype=dtype)

    @cached_property
    def runners(self) -> dict[str, Sam2Runner]:
        """The runners of our sides, by name of side."""
        return {name: self.runner(name.removeprefix("ours ")) for name in self.ours}

    @cached_property
    def earlier(self) -> ModuleType | None:
        """model/runner.py of the commit `before`."""
        return runner_module(self.before, self.folder) if self.before else None

    @cached_property
    def pictures(self) -> list[Pixels]:
        """Pictures for the section crowd; the other sections use the first. A quick run repeats one picture."""
        drawn = [image(f"bench {i}", WIDTH, HEIGHT) for i in range(1 if self.quick else CROWD)]
        return [drawn[i % len(drawn)] for i in range(CROWD)]

    @cached_property
    def embeddings(self) -> dict[str, list[Embedding]]:
        """Embeddings of the pictures, by name of our side. Each has its own memory."""
        return {name: self._embed(runner) for name, runner in self.runners.items()}

    @cached_property
    def transformers(self) -> Transformers:
        """The peer transformers, without embeddings."""
        return Transformers(self.state, self.pictures, name=TRANSFORMERS, dtype=torch.float32)

    def of_precisions(self, names: Sequence[str]) -> list[tuple[str, torch.dtype]]:
        """Return those of a pair of sides, float32 and bfloat16, whose precision our sides have, with it."""
        return [
            (name, dtype)
            for name, ours, dtype in zip(names, OURS, (torch.float32, torch.bfloat16), strict=True)
            if ours in self.ours
        ]

    def graph_peers(
        self, state: Mapping[str, torch.Tensor], pictures: Sequence[Pixels], *, variant: str = VARIANT
    ) -> list[GraphPeer]:
        """The sides that run the decoder as an ONNX graph, without embeddings."""
        graph = export(plain_model(state, variant=variant))
        peers: list[GraphPeer] = [OnnxRuntime(graph, pictures, name=ONNX, num_threads=self.num_threads)]
        return peers + [
            OpenVinoDecoder(graph, pictures, name=name, dtype=dtype, num_threads=self.num_threads)
            for name, dtype in self.of_precisions(OPENVINO)
        ]

    @cached_property
    def sides(self) -> list[Side]:
        """The sides of the decoder's sections. All except our bfloat16 decode the same float32 embeddings."""
        maps = [embedding.to_arrays(np.float32) for embedding in self.embeddings[self.ours[0]]]
        peers = [self.transformers, *self.graph_peers(self.state, self.pictures)]
        for peer in peers:
            peer.take(maps)
        ours = [Ours(self.runners[name], self.embeddings[name], name=name) for name in self.ours]
        return [*peers, *ours]

    @cached_property
    def server(self) -> RunningServer:
        """Our server with these weights and its default settings."""
        settings = {"model": VARIANT, "checkpoint": str(self.checkpoint), "log_level": "warning"}
        running = serve(settings, log=self.folder / "server.log", num_threads=self.num_threads)
        return self._stack.enter_context(running)

    def _embed(self, runner: Sam2Runner) -> list[Embedding]:
        known: dict[int, Embedding] = {}
        embeddings = []
        for picture in self.pictures:
            if id(picture) not in known:
                known[id(picture)] = runner.encode([picture])[0]
                embeddings.append(known[id(picture)])
            else:
                embeddings.append(copy.deepcopy(known[id(picture)]))
        return embeddings
