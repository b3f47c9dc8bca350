"""A segmenter without a model, and the whole service around it, ready in milliseconds.

Its answers can be computed by hand: the mask of a click is a disc around it.
"""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import httpx
import numpy as np
import torch
from fastapi import FastAPI
from PIL import Image

from app.main import create_app
from app.service.local import LocalSegmentation
from app.settings import Settings
from model.types import Embedding, Logits, Pixels, Prediction, Prompt
from model.video.mask_prompt import MaskPromptTrack
from tests.fake_devices import FakeDevices

T = TypeVar("T")

MASK_SIDE = 32
RADII = (3.0, 6.0, 9.0)
"""Radii of the three discs of a click, in low-resolution samples."""
IOUS = (0.5, 0.9, 1.25)
"""Estimated IoUs of the three discs. The last one is the best, and its estimate is above 1."""
SINGLE_IOU = 0.75
devices_are_elsewhere = False
"""Whether `make_app` makes a Front, which asks a device by calls. The fixture `either_service` sets it."""
LONG_S = 60.0
"""A timeout that no passing test comes near."""


class FakeSegmenter:
    """Implements Segmenter (app/segmenter.py). Records its batches, waits at its gate, fails on demand."""

    name = "fake"
    variant = "builtin"
    fingerprint = "0123456789abcdef" * 4
    device_name = "imagined"
    mask_size = (MASK_SIDE, MASK_SIDE)
    shares_host_memory = True
    cache_bytes: int | None = None
    most_bytes: int | None = None
    cpu_threads = 8

    def __init__(
        self, *, dtype_name: str = "float32", embedding_side: int = 2, hold: Callable[[], None] | None = None
    ) -> None:
        self.dtype_name = dtype_name
        self.encoded: list[list[tuple[int, int]]] = []
        """Height and width of the pictures of every encode batch."""
        self.expected: list[list[tuple[int, int]]] = []
        """Height and width of the pictures that were announced, each time."""
        self.decoded: list[list[Prompt]] = []
        """The prompts of every decode batch."""
        self.searched: list[set[int]] = []
        """The pictures of every batch of a search."""
        self.order: list[str] = []
        """Starts and ends of batches, in order: "encode", "encoded", "decode", and of a search "searched"."""
        self.fail_next: Exception | None = None
        self.fail_begin: Exception | None = None
        self.begun = 0
        """Tracks that were begun, or begun again."""
        self.between_steps: Callable[[], None] = lambda: None
        self.gate = threading.Event()
        self.gate.set()
        self._entered = threading.Semaphore(0)
        self._embedding_side = embedding_side
        self._hold = hold or self._wait_at_gate

    def adopt(self, embedding: Embedding) -> Embedding:
        """Return it unchanged: there is no device."""
        return embedding

    def encode(
        self, images: Sequence[Pixels], *, between: Callable[[], None] = lambda: None
    ) -> list[Embedding]:
        """Return maps that hold the mean of the picture. Call `between` once."""
        self.encoded.append([image.shape[:2] for image in images])
        self._run("encode")
        between()
        self.order.append("encoded")
        cells = self._embedding_side**2
        return [
            Embedding(
                image_rows=torch.full((cells, 8), float(image.mean())),
                feat_s1_rows=torch.full((cells, 4, 2), 2.0),
                feat_s0_rows=torch.full((cells, 4, 4, 1), 1.0),
                first_projections=(),
                height=image.shape[0],
                width=image.shape[1],
            )
            for image in images
        ]

    def expect(self, images: Sequence[Pixels]) -> None:
        """Record the pictures."""
        self.expected.append([image.shape[:2] for image in images])

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        """Return discs around the first click or the middle of the box. A mask alone is returned unchanged."""
        self.decoded.append([prompt for _, prompt in jobs])
        self._run("decode")
        return [self._predict(embedding, prompt) for embedding, prompt in jobs]

    def search(
        self,
        jobs: Sequence[tuple[Embedding, Prompt]],
        finish: Callable[[int, Prediction], T],
        *,
        between: Callable[[], None] = lambda: None,
    ) -> list[T]:
        """Decode, call `between` once, and finish."""
        self.searched.append({id(embedding) for embedding, _ in jobs})
        predictions = self.decode(jobs)
        between()
        self.order.append("searched")
        return [finish(place, prediction) for place, prediction in enumerate(predictions)]

    @property
    def tracking(self) -> "FakeSegmenter":
        """It follows objects itself."""
        return self

    @property
    def kind(self) -> Literal["mask_prompt"]:
        """See Tracking of app/segmenter.py."""
        return "mask_prompt"

    @property
    def frame_bytes(self) -> int:
        """Of a mask's logits."""
        height, width = self.mask_size
        return 4 * height * width

    def load(self) -> None:
        """Fail as `begin` does."""
        self.order.append("load")
        if self.fail_begin is not None:
            raise self.fail_begin

    def begin(self, *, num_frames: int, corrections: str, between: Callable[[], None]) -> MaskPromptTrack:
        """Begin a track, which decodes as everything does: a disc stays where it is."""
        if self.fail_begin is not None:
            raise self.fail_begin
        self.begun += 1
        self.between_steps = between
        return MaskPromptTrack(self.decode, num_frames=num_frames, mask_size=self.mask_size)

    def memory_bytes(self) -> int | None:
        """Return None, as on a CPU."""
        return None

    def warm_up(self) -> None:
        """Do nothing: the first request is not slow."""

    async def wait_until_entered(self) -> None:
        """Wait until one more batch has started to run."""
        assert await asyncio.to_thread(self._entered.acquire, True, LONG_S)

    def _run(self, what: str) -> None:
        self.order.append(what)
        self._entered.release()
        self._hold()
        if self.fail_next is not None:
            failure, self.fail_next = self.fail_next, None
            raise failure

    def _wait_at_gate(self) -> None:
        assert self.gate.wait(LONG_S)

    def _predict(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        radii, iou = (RADII, IOUS) if prompt.multimask_output else (RADII[1:2], (SINGLE_IOU,))
        if prompt.points:
            x, y = prompt.points[0]
        elif prompt.box is not None:
            x, y = (prompt.box[0] + prompt.box[2]) / 2, (prompt.box[1] + prompt.box[3]) / 2
        else:
            assert prompt.mask_logits is not None
            return Prediction(np.stack([prompt.mask_logits] * len(radii)), np.array(iou, np.float32), 1.0)
        logits = [disc(x / embedding.width, y / embedding.height, radius) for radius in radii]
        return Prediction(np.stack(logits), np.array(iou, np.float32), 1.0)


def disc(x: float, y: float, radius: float) -> Logits:
    """Return logits (h, w) of a disc around (x, y), fractions of the picture. They are steep: some exceed +-32."""
    rows, columns = np.mgrid[:MASK_SIDE, :MASK_SIDE] + 0.5
    distance = np.hypot(columns - x * MASK_SIDE, rows - y * MASK_SIDE)
    return (3.1 * (radius - distance)).astype(np.float32)


def disc_mask(x: float, y: float, radius: float, *, height: int, width: int) -> np.ndarray:
    """Return the mask (height, width) of `disc` at a picture's size, upscaled by torch."""
    logits = torch.from_numpy(disc(x / width, y / height, radius))[None, None]
    full = torch.nn.functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    return (full[0, 0] > 0).numpy()


def picture(width: int = 60, height: int = 40, *, shade: int = 0) -> bytes:
    """Return a PNG file. Each shade gives a different content."""
    file = io.BytesIO()
    Image.new("L", (width, height), shade).save(file, "PNG")
    return file.getvalue()


def make_app(settings: Settings, segmenter: FakeSegmenter) -> FastAPI:
    """Return an application with its device in this process or, within `either_service`, behind calls."""
    if not devices_are_elsewhere:
        return create_app(settings, segmenter)
    devices = FakeDevices(settings, segmenter)
    app = create_app(settings, connect=devices.connect)
    app.state.fake_devices = devices
    return app


def service_of(app: FastAPI) -> LocalSegmentation:
    """Return the service that does the work of an application that `make_app` made."""
    devices: FakeDevices | None = getattr(app.state, "fake_devices", None)
    service: LocalSegmentation = app.state.service if devices is None else devices.services[0]
    return service


@dataclass(frozen=True, slots=True)
class Served:
    """A running service and a client of it."""

    app: FastAPI
    client: httpx.AsyncClient
    segmenter: FakeSegmenter

    @property
    def service(self) -> LocalSegmentation:
        """The service that does the work: the routes call it, or the Front does."""
        return service_of(self.app)

    async def post(self, path: str, body: object) -> httpx.Response:
        """POST a value as JSON."""
        return await self.client.post(path, json=body)

    async def embed(self, data: bytes, image_id: str | None = None) -> httpx.Response:
        """POST a picture as a raw body."""
        return await self.client.post(
            "/embed",
            content=data,
            params={"image_id": image_id} if image_id else None,
            headers={"Content-Type": "image/png"},
        )

    async def click(self, image_id: str, x: float = 30, y: float = 20) -> httpx.Response:
        """POST one click."""
        return await self.post(
            "/decode", {"image_id": image_id, "point_coords": [[x, y]], "point_labels": [1]}
        )


@asynccontextmanager
async def serving(
    settings: Settings | None = None, segmenter: FakeSegmenter | None = None
) -> AsyncIterator[Served]:
    """Run the service. Yield it once it is ready, and close it at the end."""
    segmenter = segmenter or FakeSegmenter()
    app = make_app(settings or Settings(workers=2), segmenter)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            served = Served(app, client, segmenter)
            await until(lambda: app.state.service.is_loaded)
            try:
                yield served
            finally:
                segmenter.gate.set()


async def until(holds: Callable[[], bool]) -> None:
    """Run the event loop until a condition holds."""
    async with asyncio.timeout(LONG_S):
        while not holds():  # noqa: ASYNC110  # the code under test has no event to wait for
            await asyncio.sleep(0.001)


def error(response: httpx.Response) -> tuple[int, str]:
    """Return status and code of an error. Checks that its body has the form in docs/http-api.md."""
    body = response.json()
    assert response.headers["content-type"] == "application/json"
    assert set(body) == {"error"}
    assert set(body["error"]) - {"details"} == {"code", "message"}
    assert body["error"]["message"]
    return response.status_code, body["error"]["code"]
