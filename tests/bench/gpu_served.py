"""The server on a GPU: starts, clicks, uploads, clicks amid uploads, over HTTP.

Knows nothing of how it answers.
"""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.bench import load, machine
from tests.bench.gpu_session import Session
from tests.bench.load import Load, Measured, Stream
from tests.bench.server import RunningServer, serve
from tests.bench.timing import percentile
from tests.bench.traffic import HEIGHT, WIDTH, clickers, embed_own_pictures, jpeg_of_a_megabyte
from tests.golden.recipe import image


def time_server(session: Session) -> None:
    """Start twice on the same machine; the second time, embed and click."""
    settings = {
        "model": session.served_variant,
        "checkpoint": str(session.served_checkpoint),
        "device": session.device,
        "log_level": "info",
        "batch_images": str(session.batches[-1]),
        "batch_prompts": str(session.most_prompts),
    }
    log = session.folder / "server.log"
    cores = machine.num_cores()
    with serve(settings, log=log, num_threads=cores) as server:
        session.add("server", "first start until ready", s=server.start_seconds)
    with serve(settings, log=log, num_threads=cores) as server:
        session.add("server", "second start until ready", s=server.start_seconds)
        _time_clicks(session, server)
        _time_uploads(session, server)
        _time_clicks_amid_uploads(session, server)
        session.add("memory", "the server's peak resident size", MiB=machine.peak_resident_mib(server.pid))
    errors = [line for line in log.read_text().splitlines() if " ERROR " in line or " CRITICAL " in line]
    session.add("server", "errors in its log", n=len(errors))
    print("\n".join(errors[:20]), flush=True)


def _time_clicks(session: Session, server: RunningServer) -> None:
    ids = embed_own_pictures(server, 2 if session.rehearse else 16)
    seconds = 0.5 if session.rehearse else 5.0
    for count in (1, 4) if session.rehearse else (1, 4, 16, 64):
        streams = clickers(count, ids)
        load.run(Load(server.port, seconds / 5, streams))  # the first requests of a kind set things up
        _add(session, f"clicks, {count} clients", load.run(Load(server.port, seconds, streams))["click"])


def _time_uploads(session: Session, server: RunningServer) -> None:
    seconds = 0.5 if session.rehearse else 5.0
    photographs = tuple(_photographs(4 if session.rehearse else 400))
    known = Stream("upload", "/embed", "image/jpeg", (jpeg_of_a_megabyte(),))
    load.run(Load(server.port, 0.0, (known,)))
    _add(session, "upload of a known picture, 1 MB", load.run(Load(server.port, seconds, (known,)))["upload"])
    for clients in (1, 2) if session.rehearse else (1, 8):
        # Each its own share, so that no picture is known.
        half = photographs[: len(photographs) // 2] if clients == 1 else photographs[len(photographs) // 2 :]
        streams = tuple(Stream("embed", "/embed", "image/jpeg", half[i::clients]) for i in range(clients))
        found = load.run(Load(server.port, seconds, streams))["embed"]
        _add(session, f"new pictures, {clients} clients", found)
    _add_encoder_time(session, server)


def _time_clicks_amid_uploads(session: Session, server: RunningServer) -> None:
    """Clicks of one client while another uploads without pause, and with nobody else."""
    (clicker,) = clickers(1, embed_own_pictures(server, 2))
    seconds = 2.0 if session.rehearse else 10.0
    photographs = tuple(_photographs(3 if session.rehearse else 300, first=1000))
    uploader = Stream("embed", "/embed", "image/jpeg", photographs)
    idle = load.run(Load(server.port, seconds / 2, (clicker,)))["click"]
    found = load.run(Load(server.port, seconds, (clicker, uploader)))
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
    session.add(
        "server",
        "one batch of pictures on the device thread, mean",
        ms=1000 * values["sum"] / values["count"],
    )


def _add(session: Session, case: str, measured: Measured) -> None:
    session.add_times("server", case, measured.latencies, per_s=measured.per_second)


def _photographs(count: int, *, first: int = 0) -> Iterator[bytes]:
    """JPEG files of 1800 x 1200, each another picture."""
    picture = image("upload", WIDTH, HEIGHT)
    for i in range(first, first + count):
        file = io.BytesIO()
        Image.fromarray(np.roll(picture, 11 * i, axis=1 - i % 2)).save(file, format="JPEG", quality=85)
        yield file.getvalue()
