"""Order on the device: clicks before uploads, small requests before large ones, a job before batches."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from app.errors import InferenceFailed
from app.scheduling.batching import Ran
from tests.app.scheduling.gated_device import LONG_S, outcomes, started, submitted


def test_decodes_go_before_a_queue_of_encodes() -> None:
    async def story() -> None:
        async with started() as device:
            encode = device.batcher(name="encode", priority=1, max_batch=1)
            decode = device.batcher(name="decode", priority=0)
            await device.block(encode)
            uploads = await submitted(encode.submit_all(["picture 1", "picture 2"], deadline_s=LONG_S))
            clicks = await submitted(decode.submit("click", deadline_s=LONG_S))
            device.gate.set()
            await outcomes([*uploads, *clicks])
        assert device.batches == [["block"], ["click"], ["picture 1"], ["picture 2"]]

    asyncio.run(story())


def test_a_lone_click_is_in_the_next_batch_though_a_request_of_256_stands_before_it() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(max_batch=4)
            await device.block(batcher)
            crowd = [f"crowd {number}" for number in range(256)]
            tasks = await submitted(
                batcher.submit_all(crowd, deadline_s=LONG_S),
                batcher.submit("click", deadline_s=LONG_S),
                batcher.submit_all(["pair 0", "pair 1"], deadline_s=LONG_S),
            )
            device.gate.set()
            answers = await outcomes(tasks)
        assert device.batches[1] == ["crowd 0", "click", "pair 0", "crowd 1"]
        assert device.batches[2] == ["pair 1", "crowd 2", "crowd 3", "crowd 4"]
        assert isinstance(answers[0], list)
        assert [ran.result for ran in answers[0]] == [item.upper() for item in crowd]

    asyncio.run(story())


def test_calls_that_are_batches_of_their_own_take_turns_by_share() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(max_batch=3, by_call=True)
            await device.block(batcher)
            tasks = await submitted(
                batcher.submit_all(["a0", "a1", "a2", "a3"], deadline_s=LONG_S, share="a"),
                batcher.submit_all(["a4"], deadline_s=LONG_S, share="a"),
                batcher.submit_all(["b0", "b1"], deadline_s=LONG_S, share="b"),
            )
            device.gate.set()
            answers = await outcomes(tasks)
        assert device.batches[1:] == [["a0", "a1", "a2"], ["b0", "b1"], ["a4"], ["a3"]]
        assert isinstance(answers[0], list)
        assert [ran.result for ran in answers[0]] == ["A0", "A1", "A2", "A3"]

    asyncio.run(story())


def test_jobs_run_on_the_thread_of_the_batches_and_before_those_that_wait() -> None:
    threads: list[tuple[str, threading.Thread]] = []

    def note(what: str) -> str:
        threads.append((what, threading.current_thread()))
        return what

    def run(items: Sequence[str]) -> Sequence[str]:
        return [note(item) for item in items]

    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(run)
            await device.block(batcher)
            tasks = await submitted(
                batcher.submit("click", deadline_s=LONG_S), device.thread.run(lambda: note("warm up"))
            )
            device.gate.set()
            assert (await outcomes(tasks))[1] == "warm up"
            with pytest.raises(FileNotFoundError, match=r"no weights\.pt"):
                await device.thread.run(_load_nothing)
        assert [what for what, _ in threads] == ["block", "warm up", "click"]
        assert {thread.name for _, thread in threads} == {"device"}

    asyncio.run(story())


def test_many_jobs_leave_clicks_and_uploads_a_turn() -> None:
    """Prompts on hundreds of pictures that are in host memory are as many jobs: each brings one to the device."""
    order: list[str] = []

    def run(items: Sequence[str]) -> Sequence[str]:
        order.extend(items)
        return items

    async def story() -> None:
        async with started() as device:
            encode = device.batcher(run, name="encode", priority=1, max_batch=1)
            decode = device.batcher(run, name="decode", priority=0, max_batch=1)
            await device.block(encode)
            tasks = await submitted(
                *(device.thread.run(lambda: order.append("job")) for _ in range(5)),
                decode.submit("click", deadline_s=LONG_S),
                decode.submit("click", deadline_s=LONG_S),
                encode.submit("picture", deadline_s=LONG_S),
            )
            device.gate.set()
            await outcomes(tasks)

    asyncio.run(story())
    assert order == ["block", "job", "click", "picture", "job", "click", "job", "job", "job"]


def _load_nothing() -> None:
    raise FileNotFoundError("no weights.pt")


def test_clicks_overtake_a_running_encode_without_stopping_it_and_their_failure_is_theirs() -> None:
    order: list[str] = []

    async def story() -> None:
        async with started() as device:

            def encode_in_steps(pictures: Sequence[str]) -> Sequence[str]:
                for step in (1, 2):
                    device.thread.overtake()
                    order.append(f"{pictures[0]}, step {step}")
                return pictures

            def decode_one(clicks: Sequence[str]) -> Sequence[str]:
                order.append(f"{clicks[0]} begins")
                device.thread.overtake()  # nothing overtakes a click, not even another click
                if clicks[0] == "poison":
                    raise ValueError("poison")
                order.append(f"{clicks[0]} ends")
                return clicks

            encode = device.batcher(encode_in_steps, name="encode", priority=1, max_batch=1)
            decode = device.batcher(decode_one, name="decode", priority=0, max_batch=1)
            running = await device.block(encode)
            tasks = await submitted(
                encode.submit("picture", deadline_s=LONG_S),
                decode.submit("poison", deadline_s=LONG_S),
                decode.submit("click", deadline_s=LONG_S),
            )
            device.gate.set()
            assert (await running).result == "block"
            picture, poison, click = await outcomes(tasks)
            assert isinstance(picture, Ran)
            assert isinstance(poison, InferenceFailed)
            assert isinstance(click, Ran)

    asyncio.run(story())
    assert order == [
        "poison begins",
        "block, step 1",  # one batch at a time: endless clicks cannot stop an encode
        "click begins",
        "click ends",
        "block, step 2",
        "picture, step 1",
        "picture, step 2",
    ]


def test_overtaking_is_for_the_device_thread() -> None:
    async def story() -> None:
        async with started() as device:
            with pytest.raises(RuntimeError, match="on the device thread"):
                device.thread.overtake()

    asyncio.run(story())
