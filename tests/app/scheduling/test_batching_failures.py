"""Failing batches and a crashed device thread: which error each caller gets, and that no memory is leaked."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Sequence

import pytest

from app.errors import InferenceFailed, InvalidPrompt, ShuttingDown
from app.scheduling.batching import Batcher, Ran
from tests.app.scheduling.gated_device import LONG_S, outcomes, started, submitted


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
                assert "the server continues" in failure.message
                assert failure.__cause__ is broken
            assert len({id(failure) for failure in failures}) == 3
            assert device.thread.alive
        # The remaining items of the failed request are not run.
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
    """A stand-in for a large object that must not outlive its batch."""


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
                while any(ref() for ref in left):  # noqa: ASYNC110 - the thread is just leaving the batch
                    await asyncio.sleep(0)
            assert all(isinstance(cause, RuntimeError) == breaks for cause in causes)

    gc.disable()  # no reference cycle may hold memory: the collector does not see that a device is full
    logging.disable(logging.CRITICAL)  # pytest keeps log records, which keep tracebacks
    try:
        asyncio.run(story())
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


def test_a_device_thread_that_breaks_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug of ours, not the model's: callers get errors, new calls are rejected, `alive` is false for /readyz."""

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
    assert "device thread crashed" in caplog.text
