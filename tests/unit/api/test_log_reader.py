import asyncio
import gc
import itertools
import logging
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from headrace.cursor import START, LogPosition
from headrace.errors import QueueUnavailable
from headrace.job import LogEntry
from headrace.ports import Doorbell
from headrace.queues.bell import Bell
from headrace.queues.rules import QueueLimits
from headrace.request import Lane, Request
from headrace.state import State
from headrace.testing.builders import make_request, make_submission
from headrace.testing.outages import CutQueue
from headrace.testing.scripted_worker import Pace, Script, ScriptedWorker
from headrace.testing.virtual_time import run_virtual
from producer_api.log_reader import BATCH, LOGS_PER_READ, Interrupted, LogReader, Subscription

MODEL = "test-model"
GRACE_S = 15.0
NEVER = 1e6
"""As poll_s: what arrives must not have needed the poll."""


def on_virtual_time(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(test)

    return run


def loop_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1_000)


def make_queue() -> CutQueue:
    return CutQueue(clock=loop_ms, limits=QueueLimits(viewer_grace_ms=int(GRACE_S * 1_000)))


@asynccontextmanager
async def reading(queue: CutQueue, *, poll_s: float = 1.0) -> AsyncIterator[LogReader]:
    reader = LogReader(queue, viewer_grace_s=GRACE_S, poll_s=poll_s)
    task = asyncio.create_task(reader.run())
    try:
        yield reader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def submit(queue: CutQueue, *, attended: bool = False) -> Request:
    request = make_request(lane=Lane.INTERACTIVE, max_tokens=4_000, attended=attended, model=MODEL)
    # Ids of one builder share their time: the queue takes them for equal submissions only if all of the id is equal.
    await queue.accept(make_submission(request))
    return request


async def read_all(subscription: Subscription) -> list[LogEntry]:
    log: list[LogEntry] = []
    while not log or log[-1].end is None:
        log += await subscription.take(60)
    return log


def long_script(request: Request) -> Script:
    return Script(tuple(f" {n}" for n in range(3 * BATCH + 7)))


@on_virtual_time
async def test_every_entry_arrives_once_and_in_order() -> None:
    queue = make_queue()
    async with reading(queue, poll_s=NEVER) as reader, ScriptedWorker(queue, model=MODEL, script=long_script).run():
        request = await submit(queue)
        with reader.subscribe(request.id, START, attended=False) as subscription:
            log = await read_all(subscription)
    assert [entry.position.n for entry in log] == list(range(1, 3 * BATCH + 9))
    assert log[-1].end is State.DONE


@on_virtual_time
async def test_a_log_that_was_complete_before_the_subscription_is_read_at_once() -> None:
    queue = make_queue()
    async with reading(queue, poll_s=NEVER) as reader:
        async with ScriptedWorker(queue, model=MODEL, script=long_script).run():
            request = await submit(queue)
            await asyncio.sleep(0.1)
        before = asyncio.get_running_loop().time()
        with reader.subscribe(request.id, START, attended=False) as subscription:
            log = await read_all(subscription)
        assert asyncio.get_running_loop().time() == before
    assert log[-1].end is State.DONE


class MuteQueue(CutQueue):
    """Every ring is lost."""

    @asynccontextmanager
    async def log_doorbell(self) -> AsyncIterator[Doorbell]:
        yield Bell()


@on_virtual_time
async def test_lost_rings_cost_a_second_at_most() -> None:
    queue = MuteQueue(clock=loop_ms)
    async with reading(queue) as reader:
        request = await submit(queue)
        with reader.subscribe(request.id, START, attended=False) as subscription:
            assert await subscription.take(5) == []
            async with ScriptedWorker(queue, model=MODEL).run():
                before = asyncio.get_running_loop().time()
                log = await read_all(subscription)
                assert asyncio.get_running_loop().time() - before <= 1
    assert log[-1].end is State.DONE


@on_virtual_time
async def test_a_refused_doorbell_is_asked_again() -> None:
    queue = make_queue()
    queue.down = True
    async with reading(queue) as reader:
        await asyncio.sleep(10)
        queue.down = False
        await asyncio.sleep(3)
        request = await submit(queue)
        with reader.subscribe(request.id, START, attended=False) as subscription:
            await asyncio.sleep(0.5)
            async with ScriptedWorker(queue, model=MODEL).run():
                before = asyncio.get_running_loop().time()
                await read_all(subscription)
                assert asyncio.get_running_loop().time() == before


@on_virtual_time
async def test_a_slow_reader_holds_one_batch_and_loses_nothing() -> None:
    queue = make_queue()
    async with reading(queue, poll_s=10) as reader, ScriptedWorker(queue, model=MODEL, script=long_script).run():
        request = await submit(queue)
        with reader.subscribe(request.id, START, attended=False) as slow, reader.subscribe(request.id, START, attended=False) as quick:
            whole = await read_all(quick)
            await asyncio.sleep(30)
            reads = queue.reads
            await asyncio.sleep(30)
            assert queue.reads == reads, "the log of a full subscription is not read"
            started = asyncio.get_running_loop().time()
            assert len(first := await slow.take(0)) <= BATCH
            assert first + await read_all(slow) == whole
            assert asyncio.get_running_loop().time() == started


@on_virtual_time
async def test_one_call_reads_for_all_streams() -> None:
    queue, streams = make_queue(), 50
    pace = Pace(free=False)
    async with reading(queue) as reader, ScriptedWorker(queue, model=MODEL, pace=pace).run():
        requests = [await submit(queue) for _ in range(streams)]
        await asyncio.sleep(0.5)
        subscriptions = [reader.subscribe(request.id, START, attended=False) for request in requests]
        for subscription in subscriptions:
            subscription.__enter__()
        await asyncio.sleep(0.1)
        before = queue.reads
        pace.allow(streams)
        taken = await asyncio.gather(*(subscription.take(0.2) for subscription in subscriptions))
        assert sum(map(len, taken)) == streams
        assert queue.reads - before <= 3
        for subscription in subscriptions:
            subscription.__exit__(None, None, None)


@on_virtual_time
async def test_an_outage_is_silence_and_then_the_rest() -> None:
    queue = make_queue()
    pace = Pace(free=False)
    async with reading(queue, poll_s=NEVER) as reader, ScriptedWorker(queue, model=MODEL, pace=pace).run():
        request = await submit(queue)
        with reader.subscribe(request.id, START, attended=False) as subscription:
            pace.allow(2)
            await asyncio.sleep(0.1)
            head = await subscription.take(1)
            queue.down = True
            pace.allow(1)  # one ring, and its read fails
            assert await subscription.take(30) == []
            queue.down = False
            head += await subscription.take(5)
            assert [entry.position.n for entry in head] == [1, 2, 3]
            pace.release()
            log = head + await read_all(subscription)
    assert [entry.position.n for entry in log] == list(range(1, 13))


def test_an_outage_and_its_end_are_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        queue = make_queue()
        queue.down = True
        async with reading(queue) as reader:
            await asyncio.sleep(10)  # without a stream: the doorbell tells
            queue.down = False
            await asyncio.sleep(10)
            request = await submit(queue)
            with reader.subscribe(request.id, START, attended=False):
                queue.down = True
                await asyncio.sleep(10)
                queue.down = False
                await asyncio.sleep(10)

    run_virtual(story)
    said = [(record.levelname, record.getMessage().partition(" why=")[0]) for record in caplog.records]
    assert said == [
        ("WARNING", "no doorbell, polling instead"),
        ("INFO", "the doorbell is there"),
        ("WARNING", "token logs cannot be read, trying again"),
        ("INFO", "token logs are read again"),
    ]


@on_virtual_time
async def test_take_returns_nothing_after_its_timeout() -> None:
    queue = make_queue()
    async with reading(queue) as reader:
        request = await submit(queue)
        with reader.subscribe(request.id, START, attended=False) as subscription:
            started = asyncio.get_running_loop().time()
            assert await subscription.take(7) == []
            assert asyncio.get_running_loop().time() == pytest.approx(started + 7)


@on_virtual_time
async def test_an_open_stream_keeps_its_request_alive_and_a_closed_one_does_not() -> None:
    queue = make_queue()
    async with reading(queue) as reader:
        request = await submit(queue, attended=True)
        with reader.subscribe(request.id, START, attended=True):
            for _ in range(10):
                await asyncio.sleep(GRACE_S / 2)
                assert await queue.cancel_unattended(10) == 0
        await asyncio.sleep(GRACE_S + 1)
        assert await queue.cancel_unattended(10) == 1


@on_virtual_time
async def test_viewers_are_seen_soon_after_an_outage() -> None:
    queue = make_queue()
    async with reading(queue) as reader:
        request = await submit(queue, attended=True)
        with reader.subscribe(request.id, START, attended=True):
            queue.down = True
            await asyncio.sleep(GRACE_S - 1)
            queue.down = False
            await asyncio.sleep(2)
            assert await queue.cancel_unattended(10) == 0


@on_virtual_time
async def test_stopping_interrupts_open_and_later_subscriptions() -> None:
    queue = make_queue()
    async with reading(queue) as reader:
        request = await submit(queue)
        with reader.subscribe(request.id, START, attended=False) as subscription:
            waiting = asyncio.create_task(subscription.take(600))
            await asyncio.sleep(1)
            reader.stop()
            with pytest.raises(Interrupted):
                await waiting
        with reader.subscribe(request.id, START, attended=False) as late, pytest.raises(Interrupted):
            await late.take(600)


class DeafQueue(CutQueue):
    """Never answers, and takes the first cancellation of each of its callers for the end of their connection, as redis-py may."""

    calls = 3

    async def read_logs(self, wants: Sequence[tuple[str, LogPosition]], limit: int) -> list[list[LogEntry]]:
        await self._nothing()
        return []

    async def attend(self, job_ids: Sequence[str]) -> None:
        await self._nothing()

    @asynccontextmanager
    async def log_doorbell(self) -> AsyncIterator[Doorbell]:
        await self._nothing()
        yield Bell()

    async def _nothing(self) -> None:
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            self.calls -= 1
            if self.calls < 0:
                raise
            raise QueueUnavailable("connection lost") from None


@on_virtual_time
async def test_a_stopped_reader_ends_though_its_cancellation_is_lost() -> None:
    reader = LogReader(DeafQueue(clock=loop_ms, limits=QueueLimits()), viewer_grace_s=GRACE_S)
    task = asyncio.create_task(reader.run())
    with reader.subscribe("job", START, attended=True):
        await asyncio.sleep(GRACE_S)  # each of its loops is in a call
        reader.stop()
        task.cancel()
        await asyncio.wait({task}, timeout=5)
    assert task.done()


class BrokenQueue(CutQueue):
    async def read_logs(self, wants: object, limit: int) -> list[list[LogEntry]]:
        raise ZeroDivisionError


@on_virtual_time
async def test_a_fault_of_ours_stops_the_reader_and_cuts_its_streams() -> None:
    queue = BrokenQueue(clock=loop_ms)
    reader = LogReader(queue, viewer_grace_s=GRACE_S)
    task = asyncio.create_task(reader.run())
    request = await submit(queue)
    with reader.subscribe(request.id, START, attended=False) as subscription, pytest.raises(Interrupted):
        await subscription.take(600)
    assert reader.stopped
    with pytest.raises(ExceptionGroup):
        await task


@on_virtual_time
async def test_closed_subscriptions_leave_nothing_behind() -> None:
    queue = make_queue()
    async with reading(queue) as reader:
        request = await submit(queue)
        for _ in itertools.repeat(None, 3):
            with reader.subscribe(request.id, START, attended=False):
                await asyncio.sleep(0.1)
        reads = queue.reads
        await asyncio.sleep(60)
        assert queue.reads == reads


@on_virtual_time
async def test_a_subscription_closed_with_a_full_batch_is_forgotten() -> None:
    queue = make_queue()
    async with reading(queue) as reader, ScriptedWorker(queue, model=MODEL, script=long_script).run():
        request = await submit(queue)
        subscription = reader.subscribe(request.id, START, attended=False)
        with subscription:
            await asyncio.sleep(5)
        trace = weakref.ref(subscription)
        del subscription
        await asyncio.sleep(5)
        gc.collect()
        assert trace() is None


class BusyQueue(CutQueue):
    """Every log that is read grows and rings again at once."""

    def __init__(self) -> None:
        super().__init__(clock=loop_ms)
        self.batches: list[list[str]] = []
        self.bell = Bell()

    @asynccontextmanager
    async def log_doorbell(self) -> AsyncIterator[Doorbell]:
        yield self.bell

    async def read_logs(self, wants: Sequence[tuple[str, LogPosition]], limit: int) -> list[list[LogEntry]]:
        self.batches.append([job_id for job_id, _ in wants])
        self.bell.ring(job_id for job_id, _ in wants)
        await asyncio.sleep(0.001)
        return [[LogEntry(position=LogPosition(after.epoch, after.n + 1), token_ids=(1,), text="x")] for _, after in wants]


@on_virtual_time
async def test_logs_that_ring_all_the_time_do_not_keep_the_others_waiting() -> None:
    queue, jobs = BusyQueue(), [f"{i:031x}" for i in range(3 * LOGS_PER_READ)]

    async def follow(reader: LogReader, job_id: str) -> None:
        with reader.subscribe(job_id, START, attended=False) as subscription:
            while True:
                await subscription.take(60)

    async with reading(queue, poll_s=NEVER) as reader:
        followers = [asyncio.create_task(follow(reader, job_id)) for job_id in jobs]
        await asyncio.sleep(0.1)
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
    counts = Counter(itertools.chain.from_iterable(queue.batches))
    assert max(map(len, queue.batches)) == LOGS_PER_READ
    assert min(counts[job_id] for job_id in jobs) >= max(counts.values()) - 1
