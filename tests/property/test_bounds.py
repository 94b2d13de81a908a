"""Both adapters refuse the same submissions with the same words and the same wait."""

import asyncio
from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import given, settings

from headrace.errors import QueueFull, RequestTooLarge
from headrace.ids import new_job_id
from headrace.queues.rules import QueueLimits
from headrace.testing.bench import Bench, MemoryBench, RedisBench
from headrace.testing.store import Store

LIMITS = QueueLimits(max_live_jobs=6, max_live_cost=60, max_tenant_jobs=4, max_tenant_cost=40)

submits = st.tuples(st.just("submit"), st.sampled_from(["alice", "bob"]), st.integers(1, 45))
ends = st.tuples(st.just("end"), st.just(""), st.integers(0, 5))
passes = st.tuples(st.just("pass"), st.just(""), st.sampled_from([1, 900, 7_000, 30_000, 70_000]))
Step = tuple[str, str, int]


async def outcome(bench: Bench, tenant: str, job_id: str, max_tokens: int) -> tuple[str, str, float | None]:
    try:
        await bench.submit(tenant=tenant, job_id=job_id, max_tokens=max_tokens, prompt_ids=(1,))
    except QueueFull as error:
        return type(error).__name__, str(error), round(error.retry_after, 6)
    except RequestTooLarge as error:
        return type(error).__name__, str(error), None
    return "accepted", "", None


async def in_lockstep(url: str, steps: Sequence[Step]) -> None:
    benches: list[Bench] = [MemoryBench(LIMITS), await RedisBench.connect(url, LIMITS)]
    try:
        live: list[tuple[str, str]] = []
        for kind, tenant, number in steps:
            if kind == "submit":
                job_id = new_job_id(0, 1)
                one, other = [await outcome(bench, tenant, job_id, number) for bench in benches]
                assert one == other
                if one[0] == "accepted":
                    live.append((tenant, job_id))
            elif kind == "end" and live:
                owner, job_id = live.pop(number % len(live))
                for bench in benches:
                    await bench.queue.cancel(owner, job_id)
            elif kind == "pass":
                for bench in benches:
                    await bench.advance(number)
        for bench in benches:
            await bench.audit()
    finally:
        for bench in benches:
            await bench.aclose()


def test_adapters_agree(valkey: Store) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(submits | submits | ends | passes, max_size=40))
    def run(steps: list[Step]) -> None:
        asyncio.run(in_lockstep(valkey.url, steps))

    run()
