"""The worker loop against the in-memory queue and an engine whose tokens are known."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from headrace.errors import QueueUnavailable
from headrace.job import LogEntry
from headrace.ports import Append
from headrace.request import Lane, Request
from headrace.state import State
from headrace.testing.builders import ManualClock, make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.queue.memory import MemoryQueue
from headrace.worker_status import WorkerStatus
from tests.at_work import MODEL, GatedEngine, ended, has_committed, is_running, log_of, tokens_of, working
from workers.backends.scripted import ScriptedEngine, answer_to, text_of
from workers.engine_thread import EngineThread
from workers.ports import Capacity, Delta, EngineStats
from workers.timing import Timing
from workers.worker import Worker


async def test_a_job_runs_to_its_end() -> None:
    queue, request = MemoryQueue(), make_request(max_tokens=5)
    await queue.accept(make_submission(request))
    async with working(queue, ScriptedEngine()):
        job = await ended(queue, request)
    assert (job.state, job.reason, job.committed) == (State.DONE, "length", 5)
    log = await log_of(queue, request)
    assert tokens_of(log) == answer_to(request.prompt_ids, 5)
    assert "".join(entry.text for entry in log) == text_of(answer_to(request.prompt_ids, 5))
    assert [entry.end for entry in log] == [None] * 5 + [State.DONE]


async def test_many_jobs_share_the_engine() -> None:
    queue = MemoryQueue()
    requests = [make_request(prompt_ids=(1, i), max_tokens=1 + i % 7) for i in range(150)]
    for request in requests:
        await queue.accept(make_submission(request))
    async with working(queue, ScriptedEngine(max_running=16)):
        for request in requests:
            await ended(queue, request)
    for request in requests:
        assert tokens_of(await log_of(queue, request)) == answer_to(request.prompt_ids, request.sampling.max_tokens)


async def test_a_job_that_arrives_while_the_worker_idles_is_taken_by_the_doorbell() -> None:
    queue, request = MemoryQueue(), make_request()
    async with working(queue, ScriptedEngine()):
        await eventually(queue.workers)
        await queue.accept(make_submission(request))
        assert (await ended(queue, request)).state is State.DONE


async def test_a_resumed_job_goes_on_behind_the_log() -> None:
    clock = ManualClock()
    queue, request = MemoryQueue(clock=clock), make_request(max_tokens=6)
    await queue.accept(make_submission(request))
    engine = GatedEngine()
    engine.allowed = 3
    async with working(queue, engine):
        await eventually(lambda: has_committed(queue, request, 3))
    job = await queue.get("default", request.id)
    assert job.state is State.QUEUED  # the drain gave it back
    second = GatedEngine()
    second.allowed = 100
    async with working(queue, second, name="w2"):
        await ended(queue, request)
    assert second.added[0].committed_ids == answer_to(request.prompt_ids, 3)
    log = await log_of(queue, request)
    assert tokens_of(log) == answer_to(request.prompt_ids, 6)
    assert [entry.position for entry in log] == sorted({entry.position for entry in log})


async def test_a_draining_worker_gives_back_without_counting_a_crash() -> None:
    queue, request = MemoryQueue(), make_request(max_tokens=50)
    await queue.accept(make_submission(request))
    engine = GatedEngine()
    engine.allowed = 4
    async with working(queue, engine):
        await eventually(lambda: has_committed(queue, request, 2))
    job = await queue.get("default", request.id)
    assert (job.state, job.crashes) == (State.QUEUED, 0)
    assert job.committed >= 2


async def test_a_cancel_stops_a_running_job_and_keeps_its_tokens() -> None:
    queue, request = MemoryQueue(), make_request(max_tokens=10_000)
    await queue.accept(make_submission(request))
    async with working(queue, ScriptedEngine()):
        await eventually(lambda: has_committed(queue, request, 3))
        assert await queue.cancel("default", request.id) is State.RUNNING
        job = await ended(queue, request)
    assert (job.state, job.reason) == (State.CANCELLED, "cancelled")
    assert tokens_of(await log_of(queue, request)) == answer_to(request.prompt_ids, job.committed)


async def test_a_cancel_reaches_a_job_that_appends_nothing() -> None:
    queue, request = MemoryQueue(), make_request()
    await queue.accept(make_submission(request))
    async with working(queue, GatedEngine()):  # never steps: like a long prefill
        await eventually(lambda: is_running(queue, request))
        await queue.cancel("default", request.id)
        assert (await ended(queue, request)).state is State.CANCELLED


async def test_a_deadline_ends_a_running_job() -> None:
    clock = ManualClock()
    queue, request = MemoryQueue(clock=clock), make_request(max_tokens=10_000)
    await queue.accept(make_submission(request, ttl_ms=1_000))
    async with working(queue, ScriptedEngine()):
        await eventually(lambda: has_committed(queue, request, 2))
        clock.advance(1_001)
        job = await ended(queue, request)
    assert (job.state, job.reason) == (State.EXPIRED, "deadline")


async def test_a_fenced_worker_writes_nothing_more_and_works_on() -> None:
    queue = MemoryQueue()
    stolen, other = make_request(max_tokens=10_000), make_request(prompt_ids=(9,), max_tokens=4)
    await queue.accept(make_submission(stolen))
    async with working(queue, ScriptedEngine(), name="zombie") as zombie:
        await eventually(lambda: has_committed(queue, stolen, 2))
        zombie._model = "nothing"  # it must not claim the job again itself
        await queue.reap_worker("zombie")
        committed = (await queue.get("default", stolen.id)).committed
        claims = await queue.claim(
            worker="w2", nonce="n", models=[MODEL], lanes=[stolen.lane], max_jobs=1, max_tokens=1_000, lease_ms=60_000
        )
        assert [claim.request.id for claim in claims] == [stolen.id]
        zombie._model = MODEL
        await queue.accept(make_submission(other))
        assert (await ended(queue, other)).state is State.DONE
    assert (await queue.get("default", stolen.id)).committed == committed


async def test_a_job_the_engine_refuses_fails_alone_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    queue = MemoryQueue()
    bad, good = make_request(prompt_ids=(-1, 2)), make_request()
    for request in (bad, good):
        await queue.accept(make_submission(request))
    async with working(queue, ScriptedEngine()):
        job = await ended(queue, bad)
        assert (job.state, job.reason, job.committed) == (State.FAILED, "the script says so", 1)
        assert (await ended(queue, good)).state is State.DONE
    assert f"jobs failed count=1 fault=none, the last is {bad.id}: the script says so" in caplog.messages


async def test_a_worker_reports_how_its_engine_fares() -> None:
    class Busy(ScriptedEngine):
        def stats(self) -> EngineStats:
            return replace(super().stats(), waiting=3, preemptions=2, shrunk_steps=1, dtype="int8", kv_dtype="fp16")

    queue = MemoryQueue()
    async with working(queue, Busy(), lease=0.05):
        await queue.accept(make_submission(make_request(max_tokens=1_000)))

        async def look() -> WorkerStatus | None:
            return next((status for status in await queue.workers() if status.step_s is not None), None)

        status = await eventually(look)
    assert status is not None
    assert (status.waiting, status.preemptions, status.shrunk_steps, status.dtype, status.kv_dtype) == (3, 2, 1, "int8", "fp16")


class FlakyQueue(MemoryQueue):
    """Every other call to append or finish is carried out and its answer lost."""

    calls = 0

    async def append(self, appends: Any) -> Any:
        return await self._lose(super().append(appends))

    async def finish(self, finishes: Any) -> Any:
        return await self._lose(super().finish(finishes))

    async def _lose(self, call: Awaitable[Any]) -> Any:
        answer = await call
        self.calls += 1
        if self.calls % 2:
            raise QueueUnavailable("the answer was lost")
        return answer


async def test_lost_answers_double_nothing() -> None:
    queue = FlakyQueue()
    requests = [make_request(prompt_ids=(i + 1,), max_tokens=6) for i in range(5)]
    for request in requests:
        await queue.accept(make_submission(request))
    async with working(queue, ScriptedEngine()):
        for request in requests:
            await ended(queue, request)
    for request in requests:
        assert tokens_of(await log_of(queue, request)) == answer_to(request.prompt_ids, 6)
    assert sorted(entry.job_id for entry in queue.outbox) == sorted(request.id for request in requests)


class AwayQueue(MemoryQueue):
    """Heartbeats fail that often."""

    failures = 0

    async def report(self, *arguments: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise QueueUnavailable("it did not answer")
        await super().report(*arguments)


async def test_an_outage_and_its_end_are_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    queue, request = AwayQueue(), make_request(max_tokens=3)
    queue.failures = 5
    await queue.accept(make_submission(request))
    async with working(queue, ScriptedEngine()):
        await ended(queue, request)
    said = [(record.levelno, record.getMessage()) for record in caplog.records if "state store" in record.getMessage()]
    assert said == [(logging.WARNING, "state store unreachable: it did not answer"), (logging.INFO, "state store reachable again")]


class SlowQueue(MemoryQueue):
    """An append takes longer than the engine's step."""

    renewals = 0

    async def append(self, appends: Any) -> Any:
        await asyncio.to_thread(time.sleep, 0.005)
        return await super().append(appends)

    async def renew(self, held: Any, lease_ms: int) -> Any:
        self.renewals += 1
        return await super().renew(held, lease_ms)


async def test_leases_are_renewed_and_jobs_claimed_though_steps_are_shorter_than_appends() -> None:
    queue = SlowQueue()
    first, second = make_request(max_tokens=10**6), make_request(max_tokens=2)
    await queue.accept(make_submission(first))
    thread = EngineThread(ScriptedEngine())
    worker = Worker(
        name="w", model=MODEL, queue=queue, engine=thread, timing=Timing(lease=0.05, idle=0.01), clock=asyncio.get_running_loop().time
    )
    running = asyncio.ensure_future(worker.run())
    await eventually(partial(has_committed, queue, first, 3))
    await queue.accept(make_submission(second))
    assert (await ended(queue, second)).state is State.DONE
    assert queue.renewals > 0
    worker.stop()
    await running
    thread.close()


class YieldingEngine(ScriptedEngine):
    """Makes room for one urgent request more than it has slots."""

    def capacity(self, priority: int) -> Capacity:
        room = super().capacity(priority)
        return room if priority else Capacity(room.requests + 1, room.tokens)


async def test_an_urgent_job_does_not_wait_for_a_full_engine() -> None:
    queue = MemoryQueue()
    endless = [make_request(max_tokens=100_000) for _ in range(2)]
    urgent = make_request(lane=Lane.INTERACTIVE, max_tokens=2)
    async with working(queue, YieldingEngine(max_running=2, max_tokens=10**6)):
        for request in endless:
            await queue.accept(make_submission(request))
            await eventually(partial(is_running, queue, request))
        await queue.accept(make_submission(urgent))
        assert (await ended(queue, urgent)).state is State.DONE
        for request in endless:
            assert await is_running(queue, request)


class SlowStep(ScriptedEngine):
    """The second step of a request ends only when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def step(self, timeout: float) -> list[Delta]:
        if any(run.position for run in self._runs.values()):
            self.released.wait(10)
        return super().step(timeout)


async def test_a_step_may_outlast_the_lease() -> None:
    queue, request = MemoryQueue(), make_request()
    await queue.accept(make_submission(request))
    thread = EngineThread(engine := SlowStep())
    loop = asyncio.get_running_loop()
    worker = Worker(name="w", model=MODEL, queue=queue, engine=thread, timing=Timing(lease=0.05, idle=0.01), clock=loop.time)
    running = asyncio.ensure_future(worker.run())
    await eventually(partial(has_committed, queue, request, 1))
    until = loop.time() + 0.25
    while loop.time() < until:
        assert not await queue.reap_expired(10)
        await asyncio.sleep(0)
    engine.released.set()
    assert (await ended(queue, request)).epoch == 1
    worker.stop()
    await running
    thread.close()


async def test_a_job_that_fits_no_engine_does_not_block_the_queue() -> None:
    queue = MemoryQueue()
    large, small = make_request(prompt_ids=range(1, 500), max_tokens=3), make_request(max_tokens=3)
    for request in (large, small):
        await queue.accept(make_submission(request))
    async with working(queue, ScriptedEngine(max_tokens=100)):
        assert (await ended(queue, small)).state is State.DONE


async def test_a_log_that_contradicts_its_count_is_not_continued() -> None:
    class Forgetful(MemoryQueue):
        async def read_log(self, *arguments: Any, **named: Any) -> list[LogEntry]:
            return (await super().read_log(*arguments, **named))[1:]

    clock = ManualClock()
    queue, request = Forgetful(clock=clock), make_request()
    await queue.accept(make_submission(request))
    [claim] = await queue.claim(worker="w0", nonce="n", models=[MODEL], lanes=[request.lane], max_jobs=1, max_tokens=99, lease_ms=9_999)
    for start in (0, 1):
        await queue.append([Append(job_id=request.id, epoch=claim.epoch, start=start, token_ids=(start,), text="")])
    await queue.reap_worker("w0")
    engine = GatedEngine()
    async with working(queue, engine):
        await eventually(lambda: _delayed(queue, request))
    assert not engine.added


async def _delayed(queue: MemoryQueue, request: Request) -> bool:
    return (await queue.get(request.tenant, request.id)).state is State.DELAYED


async def test_a_broken_engine_ends_the_worker() -> None:
    class Broken(ScriptedEngine):
        def step(self, timeout: float) -> list[Delta]:
            raise RuntimeError("device lost")

    queue = MemoryQueue()
    await queue.accept(make_submission(make_request()))
    thread = EngineThread(Broken())
    worker = Worker(name="w", model=MODEL, queue=queue, engine=thread, timing=Timing(), clock=asyncio.get_running_loop().time)
    with pytest.raises(RuntimeError, match="device lost"):
        await worker.run()
    thread.close()


async def test_the_worker_reports_itself() -> None:
    queue = MemoryQueue()
    async with working(queue, ScriptedEngine()):
        [status] = await eventually(queue.workers)
    assert (status.worker, status.model, status.device) == ("w1", MODEL, "none")
