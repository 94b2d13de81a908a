"""Engine processes that are killed, hang, are stopped or crash on what they run, under the supervisor."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from headrace.cursor import START
from headrace.job import Job
from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits
from headrace.request import Request
from headrace.state import State
from headrace.testing.builders import make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.store import Store
from headrace.worker_status import WorkerStatus
from workers.backends.scripted import answer_to
from workers.pulse import Patience
from workers.supervisor import Supervisor

MODULE = "tests.integration.processes.faulty_engine"
CRASH, HANG_ONCE, FREEZE_ONCE = 666, 667, 668
MODEL = "test-model"
LEASE_MS = 1_000
PATIENT = Patience(start=60.0, step=60.0)
HASTY = Patience(start=60.0, step=1.5)


@pytest.fixture
async def queue(valkey: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[RedisQueue]:
    """With a janitor."""
    monkeypatch.setenv("HEADRACE_REDIS_URL", valkey.url)
    monkeypatch.setenv("HEADRACE_MODEL_NAME", MODEL)
    monkeypatch.setenv("HEADRACE_LEASE_MS", str(LEASE_MS))
    monkeypatch.setenv("HANGS_ONCE", str(tmp_path / "hung"))
    queue = await RedisQueue.connect(valkey.url, limits=QueueLimits(max_solo_crashes=1))

    stop = asyncio.Event()  # and no cancellation: redis-py loses one that meets a connection just broken

    async def sweep() -> None:
        while not stop.is_set():
            await queue.reap_expired(100)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.1)

    sweeping = asyncio.ensure_future(sweep())
    try:
        yield queue
    finally:
        stop.set()
        await sweeping
        await queue.aclose()


def faulty(name: str, pulse_fd: int) -> Sequence[str]:
    return [sys.executable, "-m", MODULE, name, str(pulse_fd)]


@asynccontextmanager
async def supervised(queue: RedisQueue, patience: Patience, standbys: int = 0) -> AsyncIterator[list[str]]:
    """Gives what the supervisor tells its parent."""
    stop, told = asyncio.Event(), list[str]()
    supervisor = Supervisor(
        "test", queue, standbys=standbys, patience=patience, command=faulty, tell=lambda well, line: told.append(f"{'+-'[not well]}{line}")
    )
    running = asyncio.ensure_future(supervisor.run(stop))
    try:
        yield told
    finally:
        stop.set()
        await running
    assert not engines()


def engines() -> set[int]:
    """Engine processes of ours that run."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if MODULE in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


async def at_work(queue: RedisQueue) -> WorkerStatus | None:
    """The worker whose process lives."""
    return next((status for status in await queue.workers() if status.pid in engines() and not status.standby), None)


async def submit(queue: RedisQueue, *, fault: int = 1, max_tokens: int = 400) -> Request:
    request = make_request(prompt_ids=(fault, 2), max_tokens=max_tokens)
    await queue.accept(make_submission(request))
    return request


async def job_of(queue: RedisQueue, request: Request) -> Job:
    return await queue.get("default", request.id)


async def until_committed(queue: RedisQueue, request: Request, count: int = 3) -> None:
    async def enough() -> bool:
        return (await job_of(queue, request)).committed >= count

    await eventually(enough, pause=0.005)


async def until_ended(queue: RedisQueue, request: Request, within: float = 30.0) -> Job:
    async def over() -> Job | None:
        job = await job_of(queue, request)
        return job if job.ended_ms is not None else None

    job = await eventually(over, within, pause=0.02)
    assert job is not None
    return job


async def check_whole(queue: RedisQueue, request: Request) -> None:
    log = await queue.read_log("default", request.id, START, 100_000)
    assert tuple(token for entry in log for token in entry.token_ids) == answer_to(request.prompt_ids, request.sampling.max_tokens)
    assert [entry.end for entry in log if entry.end] == [State.DONE]


async def test_a_killed_engine_goes_on_where_its_log_ends(queue: RedisQueue) -> None:
    request = await submit(queue)
    async with supervised(queue, PATIENT):
        await until_committed(queue, request)
        os.kill(engines().pop(), signal.SIGKILL)
        job = await until_ended(queue, request)
    assert (job.state, job.epoch, job.crashes) == (State.DONE, 3, 1)
    await check_whole(queue, request)


async def test_an_engine_killed_before_its_first_token_leaves_a_job_that_starts_anew(queue: RedisQueue) -> None:
    request = await submit(queue, fault=HANG_ONCE)
    async with supervised(queue, PATIENT):
        await eventually(lambda: asyncio.sleep(0, Path(os.environ["HANGS_ONCE"]).exists()), pause=0.005)
        held = await job_of(queue, request)
        assert (held.state, held.epoch, held.committed) == (State.RUNNING, 1, 0)
        os.kill(engines().pop(), signal.SIGKILL)
        job = await until_ended(queue, request)
    assert (job.state, job.epoch, job.crashes) == (State.DONE, 3, 1)
    await check_whole(queue, request)


@pytest.mark.parametrize("fault", [HANG_ONCE, FREEZE_ONCE], ids=["in a call", "with the interpreter's lock"])
async def test_an_engine_that_hangs_is_killed_and_its_jobs_go_on(queue: RedisQueue, fault: int, caplog: pytest.LogCaptureFixture) -> None:
    request, other = await submit(queue, fault=fault), await submit(queue)
    async with supervised(queue, HASTY) as told:
        began = time.monotonic()
        for one in (request, other):
            assert (await until_ended(queue, one)).state is State.DONE
            await check_whole(queue, one)
        await eventually(lambda: as_told(told, 3), pause=0.02)
    assert told[0] == told[2] == "+the engine takes work"
    assert told[1].startswith("-the engine ended unexpectedly (SIGKILL, as it stood still for ")
    assert time.monotonic() - began > HASTY.step
    [killed] = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "hangs and is killed: it stood still for " in killed


async def test_an_engine_that_is_stopped_for_ever_is_killed_though_it_is_idle(queue: RedisQueue) -> None:
    async with supervised(queue, HASTY):
        status = await eventually(lambda: at_work(queue), pause=0.02)
        assert status is not None
        os.kill(status.pid, signal.SIGSTOP)

        async def gone() -> bool:
            return not psutil.pid_exists(status.pid)

        await eventually(gone, pause=0.05)
        request = await submit(queue)
        assert (await until_ended(queue, request)).epoch == 1


async def test_an_engine_that_is_stopped_for_a_moment_lives_on(queue: RedisQueue) -> None:
    request = await submit(queue, max_tokens=1_000)
    async with supervised(queue, HASTY):
        await until_committed(queue, request)
        [pid] = engines()
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(LEASE_MS / 2_000)  # shorter than the lease, and than the patience
        os.kill(pid, signal.SIGCONT)
        assert (await until_ended(queue, request)).epoch == 1
        assert engines() == {pid}


async def as_told(told: list[str], lines: int) -> bool:
    return len(told) >= lines


async def both_ready(queue: RedisQueue) -> tuple[int, int]:
    """Pids of the active and of the standby."""

    async def ready() -> WorkerStatus | None:
        reported = {status.pid for status in await queue.workers()}
        return await at_work(queue) if len(engines()) == 2 and engines() <= reported else None

    status = await eventually(ready, pause=0.02)
    assert status is not None
    [standby] = engines() - {status.pid}
    return status.pid, standby


async def test_a_standby_goes_on_when_the_active_one_is_killed(queue: RedisQueue) -> None:
    request = await submit(queue, max_tokens=1_500)
    async with supervised(queue, PATIENT, standbys=1) as told:
        await until_committed(queue, request)
        active, standby = await both_ready(queue)
        await eventually(lambda: as_told(told, 2), pause=0.02)
        os.kill(active, signal.SIGKILL)
        job = await until_ended(queue, request)
        assert (job.state, job.epoch) == (State.DONE, 3)
        next_active, next_standby = await both_ready(queue)
        assert next_active == standby
        assert next_standby not in (active, standby)
        await eventually(lambda: as_told(told, 4), pause=0.02)
        assert sorted(told[:2]) == ["+a standby engine is ready", "+the engine takes work"]
        assert told[2:] == [
            "-the engine ended unexpectedly (SIGKILL): the standby goes on, and another one is started",
            "+a standby engine is ready",
        ]
        # And once more: the new standby is one too.
        os.kill(next_active, signal.SIGKILL)
        assert (await until_ended(queue, await submit(queue))).state is State.DONE
        assert (await both_ready(queue))[0] == next_standby
    await check_whole(queue, request)


async def test_a_standby_takes_no_work_and_its_death_disturbs_nobody(queue: RedisQueue) -> None:
    request = await submit(queue, max_tokens=1_000)
    async with supervised(queue, PATIENT, standbys=1):
        await until_committed(queue, request)
        active, standby = await both_ready(queue)
        assert {status.pid: status.standby for status in await queue.workers()} == {active: False, standby: True}
        os.kill(standby, signal.SIGKILL)
        assert (await until_ended(queue, request)).epoch == 1
        assert (await both_ready(queue))[0] == active


async def test_64_innocents_in_a_batch_with_poison_all_finish(queue: RedisQueue, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    innocents = [await submit(queue, max_tokens=5) for _ in range(32)]
    poison = await submit(queue, fault=CRASH)
    innocents += [await submit(queue, max_tokens=5) for _ in range(32)]
    async with supervised(queue, PATIENT):
        dead = await until_ended(queue, poison, within=60)
        assert (dead.state, dead.crashes) == (State.DEAD, 3)
        assert [death.job_id for death in await queue.deaths(10)] == [poison.id]
        for request in innocents:
            assert (await until_ended(queue, request, within=60)).state is State.DONE
            await check_whole(queue, request)
    assert [record.getMessage().partition(" has ended: ")[2] for record in caplog.records if poison.id in record.getMessage()] == ["dead"]


async def test_a_zombie_writes_nothing_frees_what_it_held_and_works_on(queue: RedisQueue) -> None:
    """Stopped for three leases, while another worker takes the job over."""
    request = await submit(queue, max_tokens=100_000)
    async with supervised(queue, PATIENT):
        await until_committed(queue, request)
        [pid] = engines()
        os.kill(pid, signal.SIGSTOP)

        async def lost() -> bool:
            return (await job_of(queue, request)).state is State.QUEUED

        await eventually(lost, pause=0.02)
        [claim] = await queue.claim(
            worker="successor", nonce="n", models=[MODEL], lanes=[request.lane], max_jobs=1, max_tokens=10**6, lease_ms=60_000
        )
        before = await queue.read_log("default", request.id, START, 100_000)
        await asyncio.sleep(3 * LEASE_MS / 1_000)
        os.kill(pid, signal.SIGCONT)
        other = await submit(queue, max_tokens=10)
        assert (await until_ended(queue, other)).state is State.DONE

        async def idle() -> bool:
            status = await at_work(queue)
            return status is not None and (status.active_requests, status.kv_tokens_used) == (0, 0)

        await eventually(idle, pause=0.02)
        assert engines() == {pid}
        assert await queue.read_log("default", request.id, START, 100_000) == before
        job = await job_of(queue, request)
        assert (job.state, job.epoch, job.committed) == (State.RUNNING, claim.epoch, claim.committed)
