"""The server on a GPU: starts, clicks, uploads, clicks amid uploads, over HTTP.

Does not know how it answers.
"""

import io
from itertools import count
from typing import ClassVar

import numpy as np
from PIL import Image

from model.types import Pixels
from tests.bench import load, machine
from tests.bench.gpu_session import Session, large_picture
from tests.bench.load import Load, Measured, Stream
from tests.bench.server import RunningServer, serve
from tests.bench.timing import percentile
from tests.bench.traffic import HEIGHT, WIDTH, clickers, embed_own_pictures, jpeg_of_a_megabyte
from tests.golden.recipe import image

BASE_FILES = 16
"""Photographs that are made; the load generator makes any number of other files of them."""

TWO_PROCESSES = 16
"""From so many clients on the load comes from two processes: one alone would be part of what it measures."""

ROOM_MIB = 14 * 1024
"""What a server takes of a GPU, at most; with less free, the runner in this process makes room."""


def time_server(session: Session) -> None:
    """Start twice on the same machine; the second time, embed and click."""
    session.make_room(ROOM_MIB)
    settings = {
        "model": session.served_variant,
        "checkpoint": str(session.served_checkpoint),
        "device": session.device,
        "log_level": "info",
        "batch_images": str(session.batches[-1]),
        "batch_prompts": str(session.most_prompts),
    }
    log = session.results.folder / "server.log"
    cores = machine.num_cores()
    with session.part("first start"), serve(settings, log=log, num_threads=cores, patience_s=90) as server:
        session.add("server", "first start until ready", s=server.start_seconds)
    with serve(settings, log=log, num_threads=cores, patience_s=90) as server:
        session.add("server", "second start until ready", s=server.start_seconds)
        for part in (_time_clicks, _time_uploads, _time_clicks_amid_uploads, _add_encoder_time):
            with session.part(part.__name__):
                part(session, server)
        session.add("memory", "the server's peak resident size", MiB=machine.peak_resident_mib(server.pid))
    errors = [line for line in log.read_text().splitlines() if " ERROR " in line or " CRITICAL " in line]
    session.add("server", "errors in its log", n=len(errors))
    if errors:
        session.wrong("\n".join(["the server has logged errors:", *errors[:20]]))


def _time_clicks(session: Session, server: RunningServer) -> None:
    ids = embed_own_pictures(server, 2 if session.rehearse else 16)
    seconds = 0.5 if session.rehearse else 5.0
    for clients in (1, 4, TWO_PROCESSES) if session.rehearse else (1, 4, 16, 64):
        processes = 1 if clients < TWO_PROCESSES else 2
        streams = clickers(clients, ids)
        load.run(Load(server.port, seconds / 5, streams))  # the first requests of a kind set things up
        found = load.run(Load(server.port, seconds, streams), processes=processes)["click"]
        _add(session, f"clicks, {clients} clients", found)


def _time_uploads(session: Session, server: RunningServer) -> None:
    seconds = 0.5 if session.rehearse else 5.0
    known = Stream("upload", "/embed", "image/jpeg", (jpeg_of_a_megabyte(),))
    load.run(Load(server.port, 0.0, (known,)))
    _add(session, "upload of a known picture, 1 MB", load.run(Load(server.port, seconds, (known,)))["upload"])
    photographs = Photographs(2 if session.rehearse else BASE_FILES)
    for clients in (1, 2) if session.rehearse else (1, 8):
        found = load.run(Load(server.port, seconds, photographs.uploaders(clients)))["embed"]
        _add(session, f"new pictures, {clients} clients", found)
    with session.part("pictures of 12 MP"):
        clients = 2 if session.rehearse else 8
        large = Photographs(1, pixels=large_picture(12))
        found = load.run(Load(server.port, seconds * 0.6, large.uploaders(clients)))["embed"]
        _add(session, f"new pictures of 12 MP, {clients} clients", found)


def _time_clicks_amid_uploads(session: Session, server: RunningServer) -> None:
    """Clicks of one client while another uploads without pause, and with nobody else."""
    (clicker,) = clickers(1, embed_own_pictures(server, 2))
    seconds = 2.0 if session.rehearse else 10.0
    (uploader,) = Photographs(2 if session.rehearse else BASE_FILES).uploaders(1)
    idle = load.run(Load(server.port, seconds / 2, (clicker,)))["click"]
    found = load.run(Load(server.port, seconds, (clicker, uploader)), processes=2)
    _add(session, "clicks, nobody else", idle)
    _add(session, "clicks while pictures are embedded", found["click"])
    _add(session, "pictures embedded meanwhile", found["embed"])
    ratio = percentile(found["click"].latencies, 95) / percentile(idle.latencies, 95)
    session.add("server", "p95 while embedding over idle p95", ratio=ratio)


def _add_encoder_time(session: Session, server: RunningServer) -> None:
    """The mean of what the device thread took for each batch of pictures, by the server's own count."""
    values = {}
    for line in server.text("/metrics").splitlines():
        for kind in ("sum", "count"):
            if line.startswith(f'sam2_stage_seconds_{kind}{{stage="encode_batch"}}'):
                values[kind] = float(line.split()[-1])
    milliseconds = 1000 * values["sum"] / values["count"]
    session.add("server", "one batch of pictures on the device thread, mean", ms=milliseconds)


def _add(session: Session, case: str, measured: Measured) -> None:
    session.add_times("server", case, measured.latencies, per_s=measured.per_second)


class Photographs:
    """JPEG files, each another picture, and clients that send any number of others of the same pixels."""

    _numbers: ClassVar = count(0, 100_000)
    """Where each client of this process begins to number; eight digits hold a thousand of them."""

    def __init__(self, files: int, *, pixels: Pixels | None = None) -> None:
        """Of 1800 x 1200, or of `pixels`, moved sideways."""
        picture = image("upload", WIDTH, HEIGHT) if pixels is None else pixels
        self.files = tuple(_jpeg(np.roll(picture, 11 * i, axis=1)) for i in range(files))

    def uploaders(self, clients: int) -> tuple[Stream, ...]:
        """Clients that share the files out among themselves."""
        return tuple(
            Stream(
                "embed", "/embed", "image/jpeg",
                self.files[i::clients] or self.files, first_number=next(self._numbers),
            )
            for i in range(clients)
        )  # fmt: skip


def _jpeg(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=85)
    return file.getvalue()
