"""kill -9 at random moments: no mask is ever wrong, and acknowledged pictures survive."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from itertools import count

from tests.fakes import picture
from tests.soak.effort import Effort
from tests.soak.process import Server, known_answers, serving
from tests.soak.verdict import Finding, enough, none
from tests.soak.wire import Client, Reply, client

NAME = "kills"
DURABLE_S = 1.0
"""Seconds after the reply until a picture is on disk, as docs/operating.md promises."""
_CLIENTS = 4
_ASKED_AGAIN = 40
"""Newest durable ids that are checked after each kill. As many random ones are checked too."""

Picture = tuple[int, int]
"""Width and shade."""
_POOL: tuple[Picture, ...] = tuple((60 + number, 6 * number) for number in range(40))


@dataclass(slots=True)
class _Witness:
    """The servers' replies, and the correct masks."""

    masks: dict[Picture, object] = field(default_factory=dict)
    acknowledged: dict[str, tuple[Picture, float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    right: int = 0

    def judge(self, image_id: str, of: Picture, reply: Reply) -> None:
        """Compare the reply to a click with the mask that was computed once."""
        if reply.status != 200 or reply.json()["predictions"] != self.masks[of]:
            self.wrong.append(f"{image_id}: {reply.status} {reply.body[:150]!r}")
        else:
            self.right += 1


def check(effort: Effort) -> list[Finding]:
    """Run 200 kills."""
    rounds = effort.times(full=200, quick=10)
    witness = _Witness()
    with serving(known_answers(), effort.folder) as server:
        asyncio.run(_learn(server, witness))
    chance = random.Random()  # noqa: S311
    lost: list[str] = []
    asked = 0
    durable: dict[str, Picture] = {}
    for number in range(rounds):
        kept = {
            "cache_dir": str(effort.folder / "cache"),
            "device_cache_mib": "1",  # so that most embeddings come from the disk
            "disk_cache_mib": "100000",
        }
        with serving(known_answers(encode_ms=5, decode_ms=1), effort.folder, **kept) as server:
            again = chance.sample(sorted(durable), min(len(durable), _ASKED_AGAIN))
            newest = list(durable)[-_ASKED_AGAIN:]
            asked += asyncio.run(_ask_again(server, {*again, *newest}, durable, witness, lost))
            killed = asyncio.run(_load_until_killed(server, number, chance.uniform(0.2, 4.0), witness))
        durable |= {
            image_id: of for image_id, (of, at) in witness.acknowledged.items() if at < killed - DURABLE_S
        }
        witness.acknowledged.clear()
    log = (effort.folder / "server.log").read_text()
    return [
        enough(NAME, "kills", rounds, rounds),
        enough(NAME, "ids checked after a kill", asked, rounds),
        enough(NAME, "masks compared", witness.right, 10 * rounds),
        none(NAME, "wrong masks, and errors instead of masks", witness.wrong),
        none(NAME, f"ids lost that were acknowledged more than {DURABLE_S:g} s before the kill", lost),
        none(NAME, "torn files", [line for line in log.splitlines() if "Removing" in line]),
    ]


async def _learn(server: Server, witness: _Witness) -> None:
    async with client(server.port) as visitor:
        for of in _POOL:
            image_id = str((await visitor.embed(picture(of[0], 40, shade=of[1]))).json()["image_id"])
            witness.masks[of] = (await visitor.click(image_id)).json()["predictions"]


async def _ask_again(
    server: Server, image_ids: set[str], durable: dict[str, Picture], witness: _Witness, lost: list[str]
) -> int:
    async with client(server.port) as visitor:
        for image_id in image_ids:
            reply = await visitor.click(image_id)
            if reply.status == 404:
                lost.append(image_id)
            else:
                witness.judge(image_id, durable[image_id], reply)
    return len(image_ids)


async def _load_until_killed(server: Server, number: int, seconds: float, witness: _Witness) -> float:
    """Run clients that embed and click until the server is killed. Return the time of the kill."""
    stopped = asyncio.Event()

    async def work(one: Client, name: str) -> None:
        chance = random.Random(name)  # noqa: S311
        try:
            for each in count():
                if stopped.is_set():
                    return
                of, image_id = chance.choice(_POOL), f"{name}-{each}"
                reply = await one.embed(picture(of[0], 40, shade=of[1]), image_id)
                if reply.status != 200:
                    witness.wrong.append(f"upload: {reply.status} {reply.body[:150]!r}")
                    continue
                witness.acknowledged[image_id] = of, time.monotonic()
                witness.judge(image_id, of, await one.click(image_id))
        except OSError:
            return  # killed
        finally:
            one.close()

    working = [asyncio.create_task(work(Client(server.port), f"{number}-{each}")) for each in range(_CLIENTS)]
    # In most rounds this is long enough for some pictures to be durable. In others the kill comes during the start.
    await asyncio.sleep(seconds)
    server.kill()
    killed = time.monotonic()
    stopped.set()
    await asyncio.gather(*working)
    return killed
