"""The janitor against the in-memory queue in virtual time."""

import logging

import pytest

from headrace.errors import QueueUnavailable
from headrace.ports import Claim
from headrace.queues.rules import QueueLimits
from headrace.request import Lane, Request
from headrace.state import State
from headrace.testing.builders import ManualClock, make_request, make_submission
from headrace.testing.queue.memory import MemoryQueue
from scheduler.janitor import SWEEP_LIMIT, Janitor, trusts_absence


class Swept:
    """What each sweep moved."""

    def __init__(self) -> None:
        self.moved: dict[str, int] = {}

    def __call__(self, name: str, count: int) -> None:
        self.moved[name] = self.moved.get(name, 0) + count


class Unreachable(MemoryQueue):
    down = False

    async def promote(self, limit: int) -> int:
        if self.down:
            raise QueueUnavailable("connection refused")
        return await super().promote(limit)


def janitor_of(queue: MemoryQueue, clock: ManualClock, swept: Swept) -> Janitor:
    return Janitor(queue, interval=0.5, lease=5.0, viewer_grace=15.0, clock=lambda: clock.now_ms / 1_000, swept=swept)


async def claim_one(queue: MemoryQueue, lease_ms: int = 5_000, nonce: str = "n") -> Claim:
    [claim] = await queue.claim(
        worker="w", nonce=nonce, models=["test-model"], lanes=list(Lane), max_jobs=1, max_tokens=1_000, lease_ms=lease_ms
    )
    return claim


async def state_of(queue: MemoryQueue, request: Request) -> State:
    return (await queue.get(request.tenant, request.id)).state


async def test_an_expired_lease_is_reaped() -> None:
    clock, swept = ManualClock(), Swept()
    queue, request = MemoryQueue(clock=clock), make_request()
    await queue.accept(make_submission(request))
    janitor = janitor_of(queue, clock, swept)
    await janitor.tick()
    clock.advance(5_000)
    await claim_one(queue)
    clock.advance(4_999)
    await janitor.tick()
    assert await state_of(queue, request) is State.RUNNING
    clock.advance(1)
    await janitor.tick()
    assert await state_of(queue, request) is State.QUEUED
    assert swept.moved["reaped"] == 1


async def test_after_an_outage_workers_have_a_whole_lease_to_come_back() -> None:
    clock, swept = ManualClock(), Swept()
    queue, request = Unreachable(clock=clock), make_request()
    await queue.accept(make_submission(request))
    await claim_one(queue)
    janitor = janitor_of(queue, clock, swept)
    await janitor.tick()
    queue.down = True
    clock.advance(60_000)
    await janitor.tick()
    queue.down = False
    await janitor.tick()
    clock.advance(4_999)
    await janitor.tick()
    assert await state_of(queue, request) is State.RUNNING
    clock.advance(1)
    await janitor.tick()
    assert await state_of(queue, request) is State.QUEUED


async def test_one_tick_clears_a_backlog_longer_than_one_sweep() -> None:
    clock, swept = ManualClock(), Swept()
    queue = MemoryQueue(clock=clock)
    count = SWEEP_LIMIT * 2 + 7
    for _ in range(count):
        await queue.accept(make_submission(make_request(), ttl_ms=1_000))
    clock.advance(1_001)
    await janitor_of(queue, clock, swept).tick()
    assert swept.moved["expired"] == count


async def test_an_ended_job_is_purged_after_its_retention() -> None:
    clock, swept = ManualClock(), Swept()
    queue, request = MemoryQueue(clock=clock, limits=QueueLimits(retention_ms=10_000)), make_request()
    await queue.accept(make_submission(request))
    await queue.cancel("default", request.id)
    janitor = janitor_of(queue, clock, swept)
    await janitor.tick()
    assert swept.moved["purged"] == 0
    clock.advance(10_001)
    await janitor.tick()
    assert swept.moved["purged"] == 1


async def test_an_unattended_request_is_cancelled_only_after_a_whole_grace_of_reachable_store() -> None:
    clock, swept = ManualClock(), Swept()
    queue = Unreachable(clock=clock, limits=QueueLimits(viewer_grace_ms=15_000))
    request = make_request(attended=True, stream=True)
    await queue.accept(make_submission(request))
    janitor = janitor_of(queue, clock, swept)
    await janitor.tick()
    queue.down = True
    clock.advance(60_000)
    await janitor.tick()
    queue.down = False
    await janitor.tick()  # reachable again: the viewer has had no chance to say that he is there
    assert await state_of(queue, request) is State.QUEUED
    clock.advance(15_000)
    await janitor.tick()
    assert await state_of(queue, request) is State.CANCELLED


async def test_whoever_made_a_job_dead_it_is_told_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    clock, swept = ManualClock(), Swept()
    queue, request = MemoryQueue(clock=clock, limits=QueueLimits(max_solo_crashes=1)), make_request()
    await queue.accept(make_submission(request))
    for nonce in ("first", "second"):
        await claim_one(queue, nonce=nonce)
        await queue.reap_worker("w")
    assert await queue.claim_suspect(worker="w", nonce="n", models=["test-model"], lease_ms=5_000)
    await queue.reap_worker("w")
    assert await state_of(queue, request) is State.DEAD
    janitors = [janitor_of(queue, clock, swept) for _ in range(2)]
    for janitor in janitors:
        await janitor.tick()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [f"job {request.id} of tenant default is given up: without a token it took 3 workers down and lost 0 leases"]
    assert swept.moved["dead"] == 1


async def test_every_round_leaves_its_time_but_those_an_outage_cut_off() -> None:
    clock, swept = ManualClock(), Swept()
    queue = Unreachable(clock=clock)
    janitor = janitor_of(queue, clock, swept)
    assert await queue.swept_ms_ago() is None
    await janitor.tick()
    assert await queue.swept_ms_ago() == 0
    clock.advance(700)
    queue.down = True
    await janitor.tick()
    assert await queue.swept_ms_ago() == 700
    queue.down = False
    await janitor.tick()
    assert await queue.swept_ms_ago() == 0


def test_absence_means_nothing_while_the_store_is_away() -> None:
    assert not trusts_absence(100.0, None, 15.0)
    assert not trusts_absence(100.0, 86.0, 15.0)
    assert trusts_absence(100.0, 85.0, 15.0)
