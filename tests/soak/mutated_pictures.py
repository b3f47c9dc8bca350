"""Pictures with a few wrong bytes: each is embedded or rejected, quickly, and none leaves anything behind."""

import asyncio
import io
import random
import struct

from PIL import Image, features

from tests.soak.effort import Effort
from tests.soak.process import Server, known_answers, serving
from tests.soak.verdict import Finding, at_most, enough, none
from tests.soak.wire import client

NAME = "pictures"
_WARM_UP = 200
_SEED = 5


def seeds() -> list[bytes]:
    """Return intact pictures of every format, in many kinds."""
    random_bytes = random.Random(_SEED)  # noqa: S311
    grey = Image.frombytes("L", (97, 61), random_bytes.randbytes(97 * 61))
    colour = Image.merge("RGB", (grey, grey.rotate(180), Image.linear_gradient("L").resize(grey.size)))
    alpha = colour.copy()
    alpha.putalpha(grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (colour, "JPEG", {"quality": 80, "exif": exif}),
        (colour, "JPEG", {"progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}),
        (grey, "JPEG", {}),
        (alpha, "PNG", {}),
        (grey.convert("I;16"), "PNG", {}),
        (colour.quantize(16), "PNG", {"transparency": 3}),
        (grey.convert("1"), "PNG", {}),
        (alpha, "WEBP", {"lossless": True}),
        (colour, "WEBP", {"exif": exif}),
        (colour.quantize(64), "GIF", {"save_all": True, "append_images": [grey]}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (colour, "TIFF", {"compression": "jpeg"}),
        (grey.convert("F"), "TIFF", {}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (colour, "BMP", {}),
        (colour.quantize(16), "BMP", {}),
    ]
    if features.check("avif"):
        kinds.append((colour, "AVIF", {"exif": exif}))
    files = []
    for image, kind, options in kinds:
        file = io.BytesIO()
        image.save(file, kind, **options)  # type: ignore[arg-type]
        files.append(file.getvalue())
    return files


def mutate(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Return a damaged file: bits flipped, lengths changed, parts cut, repeated or replaced with another file's."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        # Headers, which contain the lengths, are hit as often as all the rest.
        at = chance.randrange(min(len(changed), chance.choice((64, 512, len(changed)))))
        match chance.randrange(7):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
            case 2:
                form = chance.choice(("<H", ">H", "<I", ">I"))
                size = struct.calcsize(form)
                largest = 256**size - 1
                value = chance.choice(
                    (0, 1, 2, largest, largest // 2, largest // 2 + 1, chance.randrange(largest))
                )
                changed[at : at + size] = struct.pack(form, value)
            case 3:
                del changed[max(at, 4) :]
            case 4:
                del changed[at : at + chance.randrange(1, 32)]
            case 5:
                changed[at:at] = changed[at : at + chance.randrange(1, 512)]
            case _:
                other = chance.choice(others)
                span = chance.randrange(1, 64)
                changed[at : at + span] = other[at : at + span]
        if len(changed) < 8:
            break
    return bytes(changed)


def check(effort: Effort) -> list[Finding]:
    """Upload 2,000 mutated pictures."""
    # Freed memory is kept for the next picture, so the memory of one picture of the largest size is no growth.
    with serving(known_answers(), effort.folder, device_cache_mib="8", max_image_megapixels="4") as server:
        return asyncio.run(_check(server, effort.times(full=2000, quick=1000)))


async def _check(server: Server, count: int) -> list[Finding]:
    chance = random.Random(_SEED)  # noqa: S311
    whole = seeds()
    statuses: dict[int, int] = {}
    slowest, faults = 0.0, []
    memory_mib = server.memory_mib()
    async with client(server.port) as visitor:
        for number, seed in enumerate(whole):
            reply = await visitor.embed(seed)
            if reply.status != 200:
                faults.append(f"whole picture {number}: {reply.status} {reply.body[:200]!r}")
        for number in range(count):
            data = mutate(chance.choice(whole), whole, chance)
            try:
                reply = await visitor.embed(data)
            except OSError as error:
                faults.append(f"picture {number}: {error}")
                if server.process.poll() is not None:
                    break
                continue
            statuses[reply.status] = statuses.get(reply.status, 0) + 1
            slowest = max(slowest, reply.seconds)
            if reply.status not in (200, 413, 422):
                faults.append(f"picture {number}: {reply.status} {reply.body[:200]!r}")
            if number + 1 == _WARM_UP:
                memory_mib = server.memory_mib()
        alive = server.process.poll() is None
        grown_mib = server.memory_mib() - memory_mib if alive else float("nan")
    seen = ", ".join(f"{number} x {status}" for status, number in sorted(statuses.items()))
    return [
        enough(NAME, "mutated pictures", sum(statuses.values()), count),
        Finding(NAME, "some embedded, some rejected", seen, statuses.keys() >= {200, 422}),
        none(NAME, "replies other than 200, 413 and 422, and lost connections", faults),
        at_most(NAME, "slowest reply", slowest, 10, unit=" s"),
        at_most(NAME, f"growth of memory after {_WARM_UP} pictures", grown_mib, 50, unit=" MiB"),
    ]
