"""The worker loop and jobs that may have taken other workers down."""

import asyncio
from functools import partial

from headrace.cursor import START
from headrace.queues.rules import TURN_MS, QueueLimits
from headrace.request import Request
from headrace.state import State
from headrace.testing.builders import ManualClock, make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.queue.memory import MemoryQueue
from tests.at_work import MODEL, has_committed, is_running, log_of, new_worker, tokens_of, working
from workers.backends.scripted import ScriptedEngine, answer_to
from workers.engine_thread import EngineThread
from workers.ports import Delta, EngineRequest

POISON = 666
LEASE_S = 0.05
"""Short, so that a worker soon asks whether it is summoned."""


class Killed(Exception):
    """The process is gone."""


class PoisonedEngine(ScriptedEngine):
    """A step with a poisonous prompt takes the process down. Notes who shared the engine with whom, and steps only while it may."""

    def __init__(self, *, gated: bool = False) -> None:
        super().__init__()
        self.companies: list[frozenset[str]] = []
        self.allowed = 0 if gated else 10**9

    def add(self, request: EngineRequest) -> None:
        super().add(request)
        self.companies.append(frozenset(run.partition("@")[0] for run in self._runs))

    def step(self, timeout: float) -> list[Delta]:
        if any(POISON in run.request.prompt_ids for run in self._runs.values()):
            raise Killed
        if self.allowed == 0 or not self._runs:
            return []
        self.allowed -= 1
        return super().step(timeout)

    def first_company(self, job_id: str) -> frozenset[str]:
        """Who was there when it came, itself included."""
        return next(company for company in self.companies if job_id in company)


async def live_and_die(queue: MemoryQueue, name: str) -> PoisonedEngine | None:
    """One life of a worker process under its supervisor. None if it was not killed: nothing poisonous is left for it."""
    thread = EngineThread(engine := PoisonedEngine())
    running = asyncio.ensure_future(new_worker(queue, thread, name, lease=LEASE_S).run())

    async def over() -> bool:
        return running.done() or all(job.ended_ms is not None for job in await queue.list_jobs("default", after=None, limit=1_000))

    await eventually(over)
    dead = running.done()
    running.cancel()
    outcome = (await asyncio.gather(running, return_exceptions=True))[0]
    assert isinstance(outcome, (Killed, asyncio.CancelledError)), outcome
    thread.close()
    if dead:
        await queue.reap_worker(name)
    return engine if dead else None


async def state_of(queue: MemoryQueue, request: Request) -> State:
    return (await queue.get("default", request.id)).state


async def done(queue: MemoryQueue, request: Request) -> bool:
    return await state_of(queue, request) is State.DONE


async def resumed(queue: MemoryQueue, request: Request) -> bool:
    """It was given back, and has tokens from before and after that."""
    log = await queue.read_log("default", request.id, START, 10**6)
    return len({entry.position.epoch for entry in log}) > 1


async def crash_twice(queue: MemoryQueue, *requests: Request) -> None:
    for i in range(2):
        for request in requests:
            await queue.claim(
                worker=f"dead-{i}", nonce=request.id, models=[MODEL], lanes=[request.lane], max_jobs=1, max_tokens=999, lease_ms=60_000
            )
        await queue.reap_worker(f"dead-{i}")


async def test_64_innocents_in_a_batch_with_poison_all_finish_and_it_alone_is_dead() -> None:
    clock = ManualClock()
    queue = MemoryQueue(clock=clock, limits=QueueLimits(max_solo_crashes=3))
    innocents = [make_request(prompt_ids=(i + 1,), max_tokens=3) for i in range(64)]
    poison = make_request(prompt_ids=(POISON,))
    for request in (*innocents[:32], poison, *innocents[32:]):
        await queue.accept(make_submission(request))
    lives = 0
    while (engine := await live_and_die(queue, f"w{lives}")) is not None:
        lives += 1
        assert lives <= 5
        if lives > 2:
            assert engine.companies[-1] == {poison.id}
        clock.advance(2 * TURN_MS)
    assert lives == 5  # twice in company, three times alone
    assert await state_of(queue, poison) is State.DEAD
    for request in innocents:
        assert await done(queue, request)
        assert tokens_of(await log_of(queue, request)) == answer_to(request.prompt_ids, 3)


async def take_the_turn(queue: MemoryQueue) -> None:
    """Another worker runs a suspect, and dies of it."""
    await queue.claim_suspect(worker="another", nonce="n", models=[MODEL], lease_ms=60_000)
    await queue.reap_worker("another")


async def test_nothing_joins_a_suspect_until_it_has_made_progress() -> None:
    queue = MemoryQueue()
    suspect, other = make_request(max_tokens=100_000), make_request(max_tokens=100_000)
    await queue.accept(make_submission(suspect))
    await crash_twice(queue, suspect)
    engine = PoisonedEngine(gated=True)
    async with working(queue, engine, lease=LEASE_S):
        await eventually(partial(is_running, queue, suspect))
        await queue.accept(make_submission(other))
        for _ in range(200):
            await asyncio.sleep(0)
            assert not await is_running(queue, other)
        engine.allowed = 10**9
        await eventually(partial(is_running, queue, other))


async def test_a_busy_worker_gives_way_to_a_suspect_and_goes_on_afterwards() -> None:
    clock = ManualClock()
    queue = MemoryQueue(clock=clock)
    load = [make_request(prompt_ids=(i + 1,), max_tokens=10**6) for i in range(4)]
    suspect = make_request(prompt_ids=(9,), max_tokens=3)
    await queue.accept(make_submission(suspect))
    await crash_twice(queue, suspect)
    await take_the_turn(queue)
    engine = PoisonedEngine()
    for request in load:
        await queue.accept(make_submission(request))
    async with working(queue, engine, lease=LEASE_S):
        for request in load:
            await eventually(partial(has_committed, queue, request, 1))
        assert await state_of(queue, suspect) is State.QUEUED
        clock.advance(2 * TURN_MS)  # now it is anybody's, and the suspect has waited long enough
        await eventually(partial(done, queue, suspect))
        assert engine.first_company(suspect.id) == {suspect.id}
        for request in load:
            await eventually(partial(resumed, queue, request))
    for request in load:
        log = await queue.read_log("default", request.id, START, 10**6)
        assert tokens_of(log) == answer_to(request.prompt_ids, log[-1].position.n)


async def test_suspects_do_not_starve_under_constant_load() -> None:
    clock = ManualClock()
    queue = MemoryQueue(clock=clock)
    suspects = [make_request(prompt_ids=(1, i + 1), max_tokens=2) for i in range(5)]
    for request in suspects:
        await queue.accept(make_submission(request))
    await crash_twice(queue, *suspects)
    await take_the_turn(queue)
    load: list[Request] = []

    async def feed() -> None:
        """Always more than the engine has room for."""
        while True:
            load.append(make_request(max_tokens=20))
            await queue.accept(make_submission(load[-1]))
            clock.advance(5)
            await asyncio.sleep(0)

    feeding = asyncio.ensure_future(feed())
    async with working(queue, ScriptedEngine(max_running=4), lease=LEASE_S):
        for request in suspects:
            await eventually(partial(done, queue, request))
        already = [await done(queue, request) for request in load]
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    assert any(already)  # nor did the load
    assert not all(already)
