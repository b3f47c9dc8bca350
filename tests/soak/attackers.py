"""Clients that mean harm, each a process of its own: `python -m tests.soak.attackers NAME PORT SECONDS KEY`.

Each sends one kind of request, again and again, and prints how often and what came of it as JSON. Does not judge.
"""

import io
import json
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from PIL import Image

_PATIENCE_S = 60.0
_HELD = 400
"""Connections that an attacker keeps open; fewer than the open files that systems allow by default."""
_UPGRADE = (
    b"GET /decode/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)

Attack = Callable[["Target"], str]


class Target:
    """A server under attack until a time; `key` is the attacker's own, valid one."""

    def __init__(self, port: int, seconds: float, key: str) -> None:
        self.port, self.key = port, key
        self._end = time.monotonic() + seconds

    def lasts(self) -> bool:
        """Whether there is time for one more request."""
        return time.monotonic() < self._end

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """Open a connection and close it after the block."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE_S) as connection:
            yield connection

    def post(self, path: str, body: bytes, kind: str = "application/json") -> str:
        """Send a request with the key. Return the status of the reply, or what happened instead."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {self.key}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode()
        with self.connection() as connection:
            with suppress(OSError):  # it may answer without reading to the end
                connection.sendall(head + body)
            return status(connection)


def status(connection: socket.socket) -> str:
    """Return the status of a reply, "closed" without one, or "open" if nothing comes."""
    try:
        reply = connection.recv(4096)
    except TimeoutError:
        return "open"
    except OSError:
        return "closed"
    return reply[9:12].decode("latin-1") if reply.startswith(b"HTTP/1.1 ") else "closed"


def endless_heads(target: Target) -> str:
    """Send a request head without end."""
    with target.connection() as connection:
        try:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            for _ in range(200):
                connection.sendall(b"A: b\r\n" * 10_000)
        except OSError:
            return "closed"
        return status(connection)


def unfinished_upgrades(target: Target) -> str:
    """Hold open WebSocket upgrades that never finish, until the server closes them."""
    forms = (
        _UPGRADE + b"Content-Length: 5\r\n\r\n",
        _UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n",
        _UPGRADE + b"".join(b"a%d: b\r\n" % i for i in range(100)),
        _UPGRADE[:60],
    )
    opened: list[socket.socket] = []
    for number in range(_HELD // _WORKERS):
        connection = socket.create_connection(("127.0.0.1", target.port), timeout=_PATIENCE_S)
        connection.sendall(forms[number % len(forms)])
        opened.append(connection)
    outcomes = Counter(status(connection) for connection in opened)
    for connection in opened:
        connection.close()
    return "open" if "open" in outcomes else "ended"


def unpacking_first_messages(target: Target) -> str:
    """Send a first WebSocket message of 12 kB, without a key, that unpacks to 8 MiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    text = b"{" + b'"a":1,' * (8 * 2**20 // 6) + b'"a":1}'
    packed = (packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    with target.connection() as connection:
        offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12\r\n\r\n"
        connection.sendall(_UPGRADE + offer)
        connection.recv(4096)
        connection.sendall(bytes([0xC1, 0xFE]) + struct.pack(">H", len(packed)) + bytes(4) + packed)
        return status(connection)


def wrong_items(target: Target) -> str:
    """Send 40 MiB of prompts, none of which is one."""
    body = b'{"image_id":"a","prompts":[' + b"1," * (20 * 2**20) + b"1]}"
    return target.post("/decode", body)


def deep_nesting(target: Target) -> str:
    """Send 20 MiB of brackets."""
    return target.post("/decode", b'{"image_id":"a","prompts":' + b"[" * (20 * 2**20))


def many_values(target: Target) -> str:
    """Send 30 MiB of points in one prompt."""
    points = b'{"image_id":"a","point_labels":[1],"point_coords":[' + b"[1,2]," * (5 * 2**20) + b"[1,2]]}"
    return target.post("/decode", points)


def many_parts(target: Target) -> str:
    """Send a form of 200,000 fields."""
    parts = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' * 200_000
    return target.post("/segment", parts + b"--b--\r\n", "multipart/form-data; boundary=b")


def jpeg_of_comments(target: Target) -> str:
    """Upload 30 MiB of empty JPEG comments, with fill bytes between them."""
    return target.post("/embed", b"\xff\xd8" + b"\xff\xff\xfe\0\2" * (6 * 2**20), "image/jpeg")


def tiff_of_tiles(target: Target) -> str:
    """Upload a TIFF of 500,000 tiles of one pixel."""
    tiles = 500_000
    entries = [(256, 4, 1, 1000), (257, 4, 1, 500), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(277, 3, 1, 1), (322, 3, 1, 1), (323, 3, 1, 1), (324, 4, tiles, 200), (325, 4, tiles, 200)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)
    return target.post("/embed", head.ljust(200, b"\0") + bytes(4 * tiles), "image/tiff")


def large_masks(target: Target) -> str:
    """Ask for masks of a picture of 100 megapixels, which take longer than the deadline."""
    prompts = [
        {"point_coords": [[3000 + i, 4000]], "point_labels": [1], "multimask_output": True} for i in range(32)
    ]
    return target.post(
        "/decode", json.dumps({"image_id": "large", "mask_format": "png", "prompts": prompts}).encode()
    )


def streamed_prompts(target: Target) -> str:
    """Send prompts over /decode/stream without pause."""
    text = json.dumps({"tag": 1, "image_id": "a", "point_coords": [[0.5, 0.5]], "point_labels": [1]}).encode()
    frames = (bytes([0x81, 0x80 | len(text)]) + bytes(4) + text) * 50
    with target.connection() as connection, ThreadPoolExecutor(1) as reader:
        connection.sendall(_UPGRADE + f"X-API-Key: {target.key}\r\n\r\n".encode())

        def read() -> None:
            with suppress(OSError):
                while connection.recv(65536):
                    pass

        reading = reader.submit(read)
        try:
            while target.lasts():
                connection.sendall(frames)
        except OSError:
            return "closed"
        finally:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            reading.result()
    return "taken"


def clicks_without_pause(target: Target) -> str:
    """Click as fast as replies come."""
    return target.post("/decode", b'{"image_id":"a","point_coords":[[1,1]],"point_labels":[1]}')


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        endless_heads,
        unfinished_upgrades,
        unpacking_first_messages,
        wrong_items,
        deep_nesting,
        many_values,
        many_parts,
        jpeg_of_comments,
        tiff_of_tiles,
        large_masks,
        streamed_prompts,
        clicks_without_pause,
    )
}
_WORKERS = 4
_MORE_WORKERS = {"clicks_without_pause": 64, "large_masks": 6}


def attack(name: str, target: Target) -> Counter[str]:
    """Run an attack in several threads until its time is over. Return what came of it, and how often."""

    def run() -> Counter[str]:
        outcomes = Counter[str]()
        while target.lasts():
            try:
                outcomes[ATTACKS[name](target)] += 1
            except OSError as error:
                outcomes[type(error).__name__] += 1
        return outcomes

    workers = _MORE_WORKERS.get(name, _WORKERS)
    with ThreadPoolExecutor(workers) as pool:
        return sum((each.result() for each in [pool.submit(run) for _ in range(workers)]), Counter[str]())


def large_picture() -> bytes:
    """Return a picture of 100 megapixels in a few kilobytes."""
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    _, given_name, given_port, given_seconds, given_key = sys.argv
    print(flush=True)  # the time begins: on a busy machine, a process needs seconds until here
    print(json.dumps(attack(given_name, Target(int(given_port), float(given_seconds), given_key))))
