"""Fairness between tenants: the bound of the algorithm, and that both adapters do the same arithmetic."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from headrace.queues.rules import QueueLimits
from headrace.testing.bench import Bench, MemoryBench, RedisBench
from headrace.testing.queue.fairness import VirtualTokens
from headrace.testing.store import Store

TENANTS = ("a", "b", "ü", "z")
MAX_COST = 1_000


@given(st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, MAX_COST)), min_size=1, max_size=200))
def test_tenants_that_all_wait_are_served_alike(jobs: list[tuple[str, int]]) -> None:
    """Every tenant always waits; each job's cost is whatever comes next in the list."""
    fairness, served = VirtualTokens(), Counter[str]()
    for tenant in TENANTS:
        fairness.arrive(tenant)
    for _, cost in jobs:
        chosen = fairness.next()
        assert chosen is not None
        fairness.charge(chosen, cost)
        served[chosen] += cost
        counts = [served[name] for name in TENANTS]
        assert max(counts) - min(counts) <= MAX_COST


@given(st.lists(st.tuples(st.sampled_from(["arrive", "serve", "leave"]), st.sampled_from(TENANTS), st.integers(1, MAX_COST)), max_size=200))
def test_whoever_comes_is_within_one_job_of_the_others(events: list[tuple[str, str, int]]) -> None:
    """No credit for time away: a newcomer is never below all who wait, and so cannot starve them."""
    fairness = VirtualTokens()
    for event, tenant, cost in events:
        waiting = fairness.counters()
        if event == "arrive" and tenant not in waiting:
            fairness.arrive(tenant)
            assert fairness.counters()[tenant] >= min(waiting.values(), default=0)
        elif event == "serve" and waiting:
            chosen = fairness.next()
            assert chosen is not None
            assert waiting[chosen] == min(waiting.values())
            fairness.charge(chosen, cost)
        elif event == "leave" and tenant in waiting:
            fairness.leave(tenant)
        counters = fairness.counters().values()
        assert max(counters, default=0) - min(counters, default=0) <= MAX_COST


def test_debt_is_kept_while_others_wait() -> None:
    fairness = VirtualTokens()
    fairness.arrive("a")
    fairness.arrive("b")
    fairness.charge("a", 100)
    fairness.leave("a")
    fairness.arrive("a")
    assert fairness.counters() == {"a": 100, "b": 0}


def test_an_empty_lane_forgets() -> None:
    fairness = VirtualTokens()
    fairness.arrive("a")
    fairness.charge("a", 100)
    fairness.leave("a")
    assert fairness.next() is None
    fairness.arrive("a")
    assert fairness.counters() == {"a": 0}


EVENTS = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from(TENANTS), st.integers(1, 40)),
    st.tuples(st.just("claim"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("cancel"), st.integers(0, 10**6), st.just(0)),
    st.tuples(st.just("release"), st.integers(0, 10**6), st.just(0)),
)


async def play(make_bench: Callable[[], Awaitable[Bench]], events: list[tuple[str, str | int, int]]) -> list[list[int]]:
    """What each claim took, as numbers of submissions."""
    bench = await make_bench()
    ids: list[str] = []
    tenants: list[str] = []
    held: list[tuple[str, int]] = []
    taken: list[list[int]] = []
    for event, what, cost in events:
        if event == "submit":
            tenants.append(str(what))
            ids.append(await bench.submit(tenant=what, max_tokens=cost, job_id=f"00{len(ids):029x}"))
        elif event == "claim":
            claims = await bench.claim(max_jobs=int(what))
            held += [(claim.request.id, claim.epoch) for claim in claims]
            taken.append([ids.index(claim.request.id) for claim in claims])
        elif event == "cancel" and ids:
            await bench.queue.cancel(tenants[int(what) % len(ids)], ids[int(what) % len(ids)])
        elif event == "release" and held:
            await bench.release(*held.pop(int(what) % len(held)))
    taken.append([ids.index(claim.request.id) for claim in await bench.claim(max_jobs=10_000)])
    await bench.audit()
    await bench.aclose()
    return taken


def test_both_adapters_choose_the_same_jobs(valkey: Store) -> None:
    async def memory() -> Bench:
        return MemoryBench(QueueLimits())

    async def redis() -> Bench:
        return await RedisBench.connect(valkey.url, QueueLimits())

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(EVENTS, max_size=40))
    def both(events: list[tuple[str, str | int, int]]) -> None:
        assert asyncio.run(play(memory, events)) == asyncio.run(play(redis, events))

    both()
