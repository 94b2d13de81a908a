"""What `headrace/ports.py` promises when the store's clock jumps, for every adapter: leases and deadlines come early or late, and nothing
else. Nobody else's clock is asked."""

import pytest

from headrace.cursor import START
from headrace.ports import Verdict
from headrace.state import State
from headrace.testing.bench import LEASE_MS, Bench, Outcome

HOUR_MS = 3_600_000


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS], ids=["ahead", "back"])
async def test_a_jump_costs_no_job_and_no_token(bench: Bench, jump_ms: int) -> None:
    running, queued = await bench.submit(ttl_ms=24 * HOUR_MS), await bench.submit(ttl_ms=24 * HOUR_MS)
    await bench.claim("w1", max_jobs=1)
    await bench.append(running, 1, 0, 2)
    await bench.advance(jump_ms)
    lost = await bench.queue.reap_expired(10)
    assert lost == (1 if jump_ms > 0 else 0)
    verdict = await bench.append(running, 1, 2)
    assert verdict is (Verdict.FENCED if lost else Verdict.OK)
    later = await bench.submit(ttl_ms=24 * HOUR_MS)
    assert [job.request.id for job in await bench.queue.list_jobs("alice", after=None, limit=9)] == [later, queued, running]
    claims = {claim.request.id: claim for claim in await bench.claim("w2")}
    assert list(claims) == ([running, queued, later] if lost else [queued, later]), "by arrival, whatever the clock says"
    if not lost:
        assert await bench.renew(running, 1) is Verdict.OK
    epoch, committed = (3, 2) if lost else (1, 3)
    assert await bench.finish(running, epoch, committed) is Verdict.OK
    tokens = [token for entry in await bench.queue.read_log("alice", running, START, 99) for token in entry.token_ids]
    assert tokens == list(range(committed))
    for job_id in (queued, later):
        assert await bench.finish(job_id, claims[job_id].epoch, 0) is Verdict.OK
    assert sorted(await bench.outbox()) == sorted(Outcome(job_id, "alice", State.DONE, "stop") for job_id in (running, queued, later))


async def test_a_clock_set_back_keeps_a_dead_workers_job_for_so_long_and_no_longer(bench: Bench) -> None:
    job_id = await bench.submit(ttl_ms=24 * HOUR_MS)
    await bench.claim()
    await bench.advance(-HOUR_MS)
    await bench.advance(LEASE_MS)
    assert await bench.queue.reap_expired(10) == 0
    await bench.advance(HOUR_MS)
    assert await bench.queue.reap_expired(10) == 1
    assert await bench.state(job_id) is State.QUEUED


async def test_a_clock_set_ahead_brings_deadlines_forward(bench: Bench) -> None:
    soon, later = await bench.submit(ttl_ms=HOUR_MS), await bench.submit(ttl_ms=2 * HOUR_MS + 1)
    await bench.advance(2 * HOUR_MS)
    await bench.advance(-HOUR_MS)
    await bench.advance(HOUR_MS)
    assert await bench.queue.expire(10) == 1
    assert [await bench.state(job_id) for job_id in (soon, later)] == [State.EXPIRED, State.QUEUED]
