"""Fleets that poison and chance take down, in random order: all that is innocent ends well, all that is poisonous ends dead.

Workers here follow the rules of `claim_suspect`, on whatever store: nothing joins a suspect until it has made progress, and whoever is
summoned gives back all it holds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from headrace.ports import Claim, Verdict
from headrace.queues.rules import TURN_MS, QueueLimits
from headrace.state import State
from headrace.testing.bench import LEASE_MS, Bench, MemoryBench, RedisBench
from headrace.testing.store import Store

MAX_SOLO = 3
WORKERS = 3
ROOM = 5
TOKENS = 3
ROUNDS = 2_000
LIMITS = QueueLimits(max_solo_crashes=MAX_SOLO)


@dataclass
class Run:
    claim: Claim
    suspect: bool
    committed: int

    @property
    def alone(self) -> bool:
        return self.suspect and self.committed == self.claim.committed


@dataclass
class Worker:
    name: str
    runs: list[Run] = field(default_factory=list)


class Fleet:
    """`poison` take their worker down as soon as they are computed, `late` ones after their first token."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.poison: set[str] = set()
        self.late: set[str] = set()
        self.innocent: set[str] = set()
        self.workers = [Worker(f"w{i}") for i in range(WORKERS)]
        self.deaths = 0

    async def submit(self, *, poison: bool = False, late: bool = False) -> None:
        job_id = await self.bench.submit(max_tokens=TOKENS)
        (self.poison if poison else self.late if late else self.innocent).add(job_id)

    async def turn(self, worker: Worker) -> None:
        """Claim, compute, account."""
        if not worker.runs:
            suspect = await self.bench.claim_suspect(worker.name)
            worker.runs = [] if suspect is None else [Run(suspect, True, suspect.committed)]
        elif not worker.runs[0].alone and await self.bench.summon(worker.name):
            for run in worker.runs:
                await self.bench.release(run.claim.request.id, run.claim.epoch)
            worker.runs = []
            return
        if not any(run.alone for run in worker.runs):
            claims = await self.bench.claim(worker.name, max_jobs=ROOM - len(worker.runs))
            worker.runs += [Run(claim, False, claim.committed) for claim in claims]
        if any(self.kills(run) for run in worker.runs):
            await self.kill(worker)
        else:
            await self.compute(worker)

    def kills(self, run: Run) -> bool:
        job_id = run.claim.request.id
        return job_id in self.poison or (job_id in self.late and run.committed > 0)

    async def compute(self, worker: Worker) -> None:
        for run in list(worker.runs):
            job_id, epoch = run.claim.request.id, run.claim.epoch
            if await self.bench.append(job_id, epoch, run.committed) is Verdict.FENCED:
                worker.runs.remove(run)
                continue
            run.committed += 1
            if run.committed == TOKENS:
                assert await self.bench.finish(job_id, epoch, run.committed) is Verdict.OK
                worker.runs.remove(run)

    async def kill(self, worker: Worker, *, seen: bool = True) -> None:
        """Its supervisor sees it, or the whole machine is gone."""
        self.deaths += 1
        worker.runs = []
        if seen:
            await self.bench.queue.reap_worker(worker.name)
        worker.name = f"{worker.name.partition('.')[0]}.{self.deaths}"

    async def ended(self) -> bool:
        return all([(await self.bench.state(i)).value in ("done", "dead") for i in self.poison | self.late | self.innocent])

    async def settle(self) -> None:
        """No more accidents: everything ends in a bounded time, which is what nobody starves means."""
        for _ in range(ROUNDS):
            if await self.ended():
                return
            for worker in self.workers:
                await self.turn(worker)
            await self.bench.advance(TURN_MS // 10)
            await self.bench.queue.reap_expired(100)
        raise AssertionError(f"not over after {ROUNDS} rounds")


Event = tuple[str, int]
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["turn", "turn", "turn", "kill", "lose"]), st.integers(0, WORKERS - 1)),
        st.tuples(st.sampled_from(["innocent", "innocent", "poison", "late"]), st.just(0)),
        st.tuples(st.just("advance"), st.sampled_from([100, LEASE_MS, TURN_MS])),
    ),
    max_size=80,
)


async def play(bench: Bench, events: list[Event]) -> None:
    fleet = Fleet(bench)
    accidents_alone = dict[str, int]()
    for event, argument in events:
        if event == "turn":
            await fleet.turn(fleet.workers[argument])
        elif event in ("kill", "lose"):
            worker = fleet.workers[argument]
            # Chance may kill whatever it likes, but not one job again and again while it is alone: nothing tells that from poison.
            for run in worker.runs:
                if run.alone:
                    job_id = run.claim.request.id
                    accidents_alone[job_id] = accidents_alone.get(job_id, 0) + 1
            if all(accidents_alone.get(run.claim.request.id, 0) < MAX_SOLO for run in worker.runs if run.alone):
                await fleet.kill(worker, seen=event == "kill")
        elif event == "advance":
            await bench.advance(argument)
            await bench.queue.reap_expired(100)
        else:
            await fleet.submit(poison=event == "poison", late=event == "late")
    await fleet.settle()
    assert {await bench.state(job_id) for job_id in fleet.innocent} <= {State.DONE}
    assert {await bench.state(job_id) for job_id in fleet.poison | fleet.late} <= {State.DEAD}
    await bench.audit()


def run_fleets(make_bench: Callable[[], Awaitable[Bench]], examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(EVENTS)
    def run(events: list[Event]) -> None:
        async def whole() -> None:
            bench = await make_bench()
            try:
                await play(bench, events)
            finally:
                await bench.aclose()

        asyncio.run(whole())

    run()


async def _memory() -> Bench:
    return MemoryBench(LIMITS)


def test_no_innocent_dies_in_memory() -> None:
    run_fleets(_memory, examples=300)


@pytest.mark.parametrize("shards", [1, 3])
def test_no_innocent_dies_on_redis(valkey: Store, shards: int) -> None:
    async def make() -> Bench:
        return await RedisBench.connect(valkey.url, LIMITS, shards)

    run_fleets(make, examples=10)
