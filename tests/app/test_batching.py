"""What callers of the batcher notice: who shares a batch, who goes first, that all are answered once."""

import asyncio
import gc
import logging
import random
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from app import batching
from app.batching import Batcher, Ran
from app.device import DeviceThread
from app.errors import DeadlineExceeded, InferenceFailed, InvalidPrompt, Overloaded, ShuttingDown

LONG_S = 20.0
"""A deadline that no passing test comes near."""


class Device:
    """A device that writes down its batches, and holds each one at a gate while a test keeps it shut."""

    def __init__(self) -> None:
        self.thread = DeviceThread()
        self.batches: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def batcher(
        self,
        run: Callable[[Sequence[str]], Sequence[str]] = lambda items: [item.upper() for item in items],
        *,
        name: str = "decode",
        priority: int = 0,
        max_batch: int = 8,
        max_waiting: int = 300,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> Batcher[str, str]:
        def held(items: Sequence[str]) -> Sequence[str]:
            self.batches.append(list(items))
            self.entered.release()
            assert self.gate.wait(LONG_S)
            return run(items)

        return Batcher(
            held,
            name=name,
            device=self.thread,
            priority=priority,
            max_batch=max_batch,
            max_waiting=max_waiting,
            on_batch=on_batch,
        )

    async def wait_until_entered(self) -> None:
        """Until one more batch has begun to run."""
        assert await asyncio.to_thread(self.entered.acquire, True, LONG_S)

    async def block(self, batcher: Batcher[str, str]) -> asyncio.Task[Ran[str]]:
        """Keep the device busy with one item, and shut the gate until the test opens it."""
        self.gate.clear()
        while self.entered.acquire(blocking=False):
            pass  # batches of before
        task = asyncio.create_task(batcher.submit("block", deadline_s=LONG_S))
        await self.wait_until_entered()
        return task


@asynccontextmanager
async def started() -> AsyncIterator[Device]:
    """A device with its thread running. Nothing may go wrong behind the callers' backs, in the event loop."""
    device = Device()
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    device.thread.start()
    try:
        yield device
    finally:
        device.gate.set()
        await device.thread.close()
    assert troubles == []


async def submitted(*calls: Awaitable[object]) -> list[asyncio.Future[object]]:
    """The calls as tasks, each past its admission."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def outcomes(tasks: Sequence[asyncio.Future[object]]) -> list[object]:
    """What each task gave: the value, or the exception itself."""
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_an_idle_device_runs_a_lone_item_at_once() -> None:
    async def story() -> None:
        async with started() as device:
            ran = await device.batcher().submit("a", deadline_s=LONG_S)
        assert (ran.result, ran.batch_size) == ("A", 1)
        assert ran.queue_s >= 0
        assert ran.device_s >= 0
        assert device.batches == [["a"]]

    asyncio.run(story())


def test_callers_who_come_while_the_device_is_busy_share_the_next_batch() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher()
            blocked = await device.block(batcher)
            tasks = await submitted(*(batcher.submit(item, deadline_s=LONG_S) for item in "abcde"))
            assert batcher.waiting == 5
            device.gate.set()
            answers = [await task for task in tasks]
            assert (await blocked).batch_size == 1
        assert [ran.result for ran in answers] == list("ABCDE")
        assert {ran.batch_size for ran in answers} == {5}
        assert device.batches == [["block"], list("abcde")]
        assert batcher.waiting == 0

    asyncio.run(story())


def test_results_of_many_items_come_in_order_over_several_batches() -> None:
    async def story() -> None:
        items = [f"item {number}" for number in range(21)]
        async with started() as device:
            answers = await device.batcher(max_batch=4).submit_all(items, deadline_s=LONG_S)
        assert [ran.result for ran in answers] == [item.upper() for item in items]
        assert [len(batch) for batch in device.batches] == [4, 4, 4, 4, 4, 1]

    asyncio.run(story())


def test_no_items_give_no_results_and_no_batch() -> None:
    async def story() -> None:
        async with started() as device:
            assert await device.batcher().submit_all([], deadline_s=LONG_S) == []
        assert device.batches == []

    asyncio.run(story())


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


def test_what_does_not_fit_into_the_queue_is_refused_whole() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(max_waiting=3)
            await device.block(batcher)
            tasks = await submitted(batcher.submit_all(["a", "b"], deadline_s=LONG_S))
            with pytest.raises(
                Overloaded, match=r"decode queue holds 2 of at most 3 items; 2 more"
            ) as refusal:
                await batcher.submit_all(["c", "d"], deadline_s=LONG_S)
            assert refusal.value.retry_after_s == 1
            assert batcher.waiting == 2
            tasks += await submitted(batcher.submit("e", deadline_s=LONG_S))
            device.gate.set()
            await outcomes(tasks)
        assert device.batches == [["block"], ["a", "e", "b"]]

    asyncio.run(story())


def test_retry_after_follows_the_recent_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def two_seconds_each(items: Sequence[str]) -> Sequence[str]:
        nonlocal now
        now += 2.0 * len(items)
        return items

    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(two_seconds_each, max_batch=5, max_waiting=50)
            await batcher.submit_all(["warm"] * 50, deadline_s=LONG_S)
            await batcher.submit_all(["warm"] * 50, deadline_s=LONG_S)
            await device.block(batcher)
            waiting = await submitted(batcher.submit_all(["a"] * 50, deadline_s=LONG_S))
            with pytest.raises(Overloaded) as refusal:
                await batcher.submit("b", deadline_s=LONG_S)
            batcher.drain()
            await outcomes(waiting)
        assert 95 <= refusal.value.retry_after_s <= 100

    monkeypatch.setattr(batching, "monotonic", lambda: now)
    asyncio.run(story())


def test_every_result_says_how_long_it_waited_and_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def two_seconds(items: Sequence[str]) -> Sequence[str]:
        nonlocal now
        now += 2.0
        return items

    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(two_seconds, max_batch=2)
            blocked = await device.block(batcher)
            (task,) = await submitted(batcher.submit_all(["a", "b", "c"], deadline_s=LONG_S))
            device.gate.set()
            assert await blocked == Ran("block", queue_s=0.0, device_s=2.0, batch_size=1)
            assert await task == [
                Ran("a", queue_s=2.0, device_s=2.0, batch_size=2),
                Ran("b", queue_s=2.0, device_s=2.0, batch_size=2),
                Ran("c", queue_s=4.0, device_s=2.0, batch_size=1),
            ]

    monkeypatch.setattr(batching, "monotonic", lambda: now)
    asyncio.run(story())


def test_the_deadline_answers_who_waits_and_takes_the_item_from_the_queue() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher()
            await device.block(batcher)
            with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
                await batcher.submit_all(["late", "later"], deadline_s=0.01)
            assert batcher.waiting == 0
        assert device.batches == [["block"]]

    asyncio.run(story())


def test_the_deadline_answers_callers_of_a_batch_that_is_stuck() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher()
            device.gate.clear()
            with pytest.raises(DeadlineExceeded):
                await batcher.submit("stuck", deadline_s=0.01)
            await device.wait_until_entered()
            assert device.thread.busy_since is not None
            device.gate.set()
            assert (await batcher.submit("next", deadline_s=LONG_S)).result == "NEXT"
        assert device.thread.busy_since is None

    asyncio.run(story())


def test_a_caller_who_has_gone_frees_its_place() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(max_waiting=2)
            await device.block(batcher)
            (gone,) = await submitted(batcher.submit_all(["gone 1", "gone 2"], deadline_s=LONG_S))
            gone.cancel()
            assert isinstance((await outcomes([gone]))[0], asyncio.CancelledError)
            assert batcher.waiting == 0
            tasks = await submitted(batcher.submit_all(["a", "b"], deadline_s=LONG_S))
            device.gate.set()
            await outcomes(tasks)
        assert device.batches == [["block"], ["a", "b"]]

    asyncio.run(story())


def test_a_caller_who_goes_while_its_item_runs_disturbs_nobody() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(max_batch=3)
            await device.block(batcher)
            going, alone, staying = await submitted(
                batcher.submit_all(["going 1", "going 2"], deadline_s=LONG_S),
                batcher.submit("alone", deadline_s=LONG_S),
                batcher.submit("staying", deadline_s=LONG_S),
            )
            device.gate.set()
            device.gate.clear()
            await device.wait_until_entered()
            going.cancel()
            alone.cancel()
            await outcomes([going, alone])
            device.gate.set()
            ran = await staying
            assert isinstance(ran, Ran)
            assert ran.result == "STAYING"
        assert device.batches == [["block"], ["going 1", "alone", "staying"]]

    asyncio.run(story())


@pytest.mark.parametrize("broken", [RuntimeError("out of memory"), MemoryError(), SystemExit(1)])
def test_a_batch_that_breaks_answers_all_its_callers_and_the_next_one_runs(
    broken: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def run(items: Sequence[str]) -> Sequence[str]:
        if "poison" in items:
            raise broken
        return items

    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(run, max_batch=3)
            await device.block(batcher)
            tasks = await submitted(
                batcher.submit("poison", deadline_s=LONG_S),
                batcher.submit("neighbour", deadline_s=LONG_S),
                batcher.submit_all(["part 1", "part 2", "part 3"], deadline_s=LONG_S),
                batcher.submit("next", deadline_s=LONG_S),
            )
            device.gate.set()
            *failures, following = await outcomes(tasks)
            assert isinstance(following, Ran)
            assert following.result == "next"
            for failure in failures:
                assert isinstance(failure, InferenceFailed)
                assert "the server goes on" in failure.message
                assert failure.__cause__ is broken
            assert len({id(failure) for failure in failures}) == 3
            assert device.thread.alive
        # What was left of the broken request is not run for nobody.
        assert device.batches == [["block"], ["poison", "neighbour", "part 1"], ["next"]]

    with caplog.at_level(logging.ERROR):
        asyncio.run(story())
    (record,) = caplog.records
    assert "decode" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is broken


def test_an_error_of_the_service_reaches_each_caller_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    original = InvalidPrompt("no such prompt", details=[{"where": "box", "what": "upside down"}])

    def run(items: Sequence[str]) -> Sequence[str]:
        if items == ["block"]:
            return items
        raise original from KeyError("box")

    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(run)
            await device.block(batcher)
            tasks = await submitted(*(batcher.submit(item, deadline_s=LONG_S) for item in "ab"))
            device.gate.set()
            first, second = await outcomes(tasks)
        for failure in (first, second):
            assert isinstance(failure, InvalidPrompt)
            assert failure.message == str(failure) == "no such prompt"
            assert failure.details == original.details
            assert isinstance(failure.__cause__, KeyError)
        assert first is not second

    asyncio.run(story())
    assert caplog.records == []


@pytest.mark.parametrize("returned", [["one too few"], ["one", "too", "many"]])
def test_the_wrong_number_of_results_is_a_failure(returned: list[str]) -> None:
    async def story() -> None:
        async with started() as device:
            with pytest.raises(InferenceFailed) as failure:
                await device.batcher(lambda items: returned).submit_all(["a", "b"], deadline_s=LONG_S)
            assert str(failure.value.__cause__) == f"{len(returned)} results for 2 items"

    asyncio.run(story())


class Tensor:
    """Stands for something big that must not outlive its batch."""


@pytest.mark.parametrize("breaks", [False, True])
def test_a_finished_batch_leaves_nothing_in_memory(breaks: bool) -> None:
    left: list[weakref.ref[Tensor]] = []

    def run(items: Sequence[Tensor]) -> Sequence[str]:
        activations = [Tensor() for _ in items]
        left.extend(weakref.ref(tensor) for tensor in [*items, *activations])
        try:
            raise KeyError("inner")
        except KeyError as inner:
            if breaks:
                raise RuntimeError("out of memory") from inner
        return ["fine" for _ in items]

    async def story() -> None:
        async with started() as device:
            batcher = Batcher(run, name="t", device=device.thread, priority=0, max_batch=8, max_waiting=8)
            tasks = await submitted(*(batcher.submit(Tensor(), deadline_s=LONG_S) for _ in range(3)))
            causes = [getattr(outcome, "__cause__", None) for outcome in await outcomes(tasks)]
            tasks.clear()
            assert len(left) == 6
            async with asyncio.timeout(5):
                while any(ref() for ref in left):  # noqa: ASYNC110 - the thread is about to leave the batch
                    await asyncio.sleep(0)
            assert all(isinstance(cause, RuntimeError) == breaks for cause in causes)

    gc.disable()  # nothing may hang on a reference cycle, for the collector knows nothing of a full device
    logging.disable(logging.CRITICAL)  # pytest keeps log records, and they keep tracebacks
    try:
        asyncio.run(story())
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


def test_drain_answers_who_waits_while_the_running_batch_completes() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher()
            blocked = await device.block(batcher)
            waiting = await submitted(
                batcher.submit("a", deadline_s=LONG_S), batcher.submit_all(["b", "c"], deadline_s=LONG_S)
            )
            batcher.drain()
            batcher.drain()
            assert [type(outcome) for outcome in await outcomes(waiting)] == [ShuttingDown, ShuttingDown]
            assert batcher.waiting == 0
            with pytest.raises(ShuttingDown):
                await batcher.submit("d", deadline_s=LONG_S)
            assert not blocked.done()
            device.gate.set()
            assert (await blocked).result == "BLOCK"
        assert device.batches == [["block"]]

    asyncio.run(story())


def test_close_answers_everyone_waits_for_the_running_batch_and_can_be_repeated() -> None:
    async def story() -> None:
        async with started() as device:
            decode, encode = device.batcher(), device.batcher(name="encode", priority=1)
            blocked = await device.block(decode)
            waiting = await submitted(
                decode.submit("click", deadline_s=LONG_S),
                encode.submit("picture", deadline_s=LONG_S),
                device.thread.run(lambda: "job"),
            )
            closings = await submitted(device.thread.close(), device.thread.close())
            assert [type(outcome) for outcome in await outcomes(waiting)] == [ShuttingDown] * 3
            assert not any(closing.done() for closing in closings)
            device.gate.set()
            await outcomes(closings)
            assert blocked.done()
            assert (await blocked).result == "BLOCK"
            assert not device.thread.alive
            await device.thread.close()
            for refused in (decode.submit("a", deadline_s=LONG_S), device.thread.run(lambda: "job")):
                with pytest.raises(ShuttingDown):
                    await refused

    asyncio.run(story())


def test_closing_a_stuck_device_answers_who_waits_and_can_be_given_up() -> None:
    async def story() -> None:
        async with started() as device:
            batcher = device.batcher()
            await device.block(batcher)
            waiting = await submitted(batcher.submit("a", deadline_s=LONG_S))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(device.thread.close(), 0.01)
            assert [type(outcome) for outcome in await outcomes(waiting)] == [ShuttingDown]
            assert device.thread.alive

    asyncio.run(story())


def test_a_device_that_never_started_can_be_closed() -> None:
    async def story() -> None:
        thread = DeviceThread()
        assert not thread.alive
        await thread.close()

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
                device.thread.overtake()  # nothing goes before a click, not even another click
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
        "block, step 1",  # one batch at a time: clicks without end cannot stop an encode
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


def test_the_observer_is_told_of_every_batch() -> None:
    seen: list[tuple[int, float]] = []

    async def story() -> None:
        async with started() as device:
            batcher = device.batcher(max_batch=2, on_batch=lambda size, seconds: seen.append((size, seconds)))
            await batcher.submit_all(["a", "b", "c"], deadline_s=LONG_S)

    asyncio.run(story())
    assert [size for size, _ in seen] == [2, 1]
    assert all(seconds >= 0 for _, seconds in seen)


def test_a_device_thread_that_breaks_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Our own bug, not the model's: callers are answered, new ones refused, and `alive` tells /readyz."""

    def broken(self: Batcher[str, str]) -> None:
        if self.waiting:
            raise MemoryError("in the loop itself")

    async def story() -> None:
        async with started() as device:
            batcher = device.batcher()
            monkeypatch.setattr(Batcher, "take", broken)
            for _ in range(2):
                with pytest.raises(ShuttingDown):
                    await batcher.submit("a", deadline_s=LONG_S)
            await device.thread.close()
            assert not device.thread.alive

    asyncio.run(story())
    assert "device thread broke" in caplog.text


def test_a_batch_that_outlives_the_event_loop_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    gone = threading.Event()

    def run(items: Sequence[str]) -> Sequence[str]:
        gone.set()
        return items

    async def story() -> None:
        device.thread.start()
        await device.block(device.batcher(run))

    asyncio.run(story())
    device.gate.set()
    assert gone.wait(LONG_S)
    assert caplog.records == []
    device.thread._closing = True  # no loop is left to await close() on
    with device.thread.changed:
        device.thread.changed.notify()
    device.thread._thread.join(LONG_S)
    assert not device.thread.alive


def test_under_random_load_every_submission_ends_once_and_nothing_is_lost() -> None:
    """Many callers of all sizes, some impatient, some gone, some poisonous, over two queues that overflow."""
    chance = random.Random(2)  # noqa: S311
    callers = 6000
    runs: Counter[str] = Counter()
    endings: Counter[str] = Counter()

    async def story() -> None:
        async with started() as device:

            def run(items: Sequence[str]) -> Sequence[str]:
                runs.update(items)
                if any(item.endswith("poison") for item in items):
                    raise ValueError("poison")
                device.thread.overtake()
                return [item.upper() for item in items]

            batchers = [
                device.batcher(run, name=f"queue {priority}", priority=priority, max_waiting=60)
                for priority in range(2)
            ]

            async def call(number: int) -> None:
                items = [f"{number}/{index}" for index in range(chance.choice([1, 1, 1, 2, 5, 40]))]
                if chance.random() < 0.02:
                    items[-1] += " poison"
                deadline_s = chance.choice([0.0, 0.001, LONG_S, LONG_S, LONG_S])
                try:
                    answers = await chance.choice(batchers).submit_all(items, deadline_s=deadline_s)
                except asyncio.CancelledError:
                    endings["gone"] += 1
                    raise
                except (DeadlineExceeded, InferenceFailed, Overloaded) as failure:
                    endings[failure.code] += 1
                else:
                    endings["answered"] += 1
                    assert [ran.result for ran in answers] == [item.upper() for item in items]

            cancelled: list[object] = []
            for crowd in range(0, callers, 300):  # each finds empty queues, however slow the device was
                tasks: list[asyncio.Future[object]] = []
                for number in range(crowd, crowd + 300):
                    tasks.append(asyncio.ensure_future(call(number)))
                    if chance.random() < 0.3:
                        chance.choice(tasks[-20:]).cancel()
                    if chance.random() < 0.4:
                        await asyncio.sleep(0)
                cancelled += [result for result in await outcomes(tasks) if result is not None]
            never_begun = len(cancelled) - endings["gone"]
            assert all(isinstance(result, asyncio.CancelledError) for result in cancelled)
            assert sum(endings.values()) + never_begun == callers
            assert [batcher.waiting for batcher in batchers] == [0, 0]
            assert (await batchers[1].submit("last", deadline_s=LONG_S)).result == "LAST"

    logging.disable(logging.CRITICAL)  # hundreds of tracebacks that say nothing
    try:
        asyncio.run(story())
    finally:
        logging.disable(logging.NOTSET)
    assert max(runs.values()) == 1, "an item ran twice"
    assert endings.keys() == {"answered", "gone", "deadline_exceeded", "inference_failed", "overloaded"}
