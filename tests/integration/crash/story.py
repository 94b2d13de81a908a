"""A short story of four jobs, told by the real actors: API, workers, supervisor, janitor. Each act is what one process does.
`kafka_story.py` has another, with a log of requests in front of the store.

Nothing in it depends on threads or on how long anything takes, so its k-th command is the same in every run. The store's time is the
story's own.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from fastapi import FastAPI
from redis.asyncio import Redis

from headrace.errors import QueueUnavailable
from headrace.files.folder import FolderBlobs
from headrace.job import Job
from headrace.ports import Doorbell
from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits
from headrace.queues.server import Server
from headrace.queues.shards import read_library
from headrace.registries.batches import RedisBatches
from headrace.registries.files import RedisFiles
from headrace.settings import Settings
from headrace.state import State
from headrace.testing.bench import CLOCK_KEY, on_virtual_time
from headrace.testing.builders import ManualClock
from headrace.testing.fuse import Fuse, FusedServer
from headrace.testing.words import WordPrompter
from producer_api.app import create_app
from producer_api.archive import Archive
from producer_api.catalog import Catalog
from producer_api.services import Services
from scheduler.janitor import Janitor
from tests.at_work import MODEL, InlineEngine
from workers.backends.scripted import ScriptedEngine, answer_to, text_of
from workers.ports import Delta
from workers.timing import Timing
from workers.worker import Worker

LEASE_MS = 5_000
LIMITS = QueueLimits(retention_ms=3_600_000)
LIBRARY = on_virtual_time(read_library())

ANSWERED, ABANDONED, UNWANTED, LATE = "answered", "abandoned", "unwanted", "late"
"""The jobs, by idempotency key: one runs to its end, one is cancelled while a dead worker holds it, one while it waits, one expires."""
ENDS = {
    ANSWERED: (State.DONE, "length"),
    ABANDONED: (State.CANCELLED, "cancelled"),
    UNWANTED: (State.CANCELLED, "cancelled"),
    LATE: (State.EXPIRED, "deadline"),
}
PROMPT = "what happens next"
PROMPT_IDS = WordPrompter().text(PROMPT)
TOKENS = 7
MORE_TOKENS = 40
"""Than all workers of the story compute."""
STEP_S = 0.5
PATIENCE = 10
"""Repeats after which a story with a single fault is stuck."""


async def make_app(url: str, files_dir: Path) -> FastAPI:
    """For all API processes of all runs, each of which gives it a queue: making it takes longer than the story."""
    server = Server(url, LIBRARY)
    archive = Archive(RedisFiles(server), RedisBatches(server), FolderBlobs(files_dir))
    catalog = Catalog({MODEL: WordPrompter})
    await catalog.load()
    return create_app(RedisQueue(server, shards=1, limits=LIMITS), archive, catalog, Settings(model=MODEL, files_dir=files_dir))


@dataclass
class Stage:
    """What the world knows beside the store."""

    url: str
    app: FastAPI
    fuse: Fuse
    shards: int
    limits: QueueLimits
    ids: dict[str, str] = field(default_factory=dict)
    """What clients were told: job ids by idempotency key."""
    starts: int = 0
    """Of workers; each has a name of its own."""

    @property
    def worker(self) -> str:
        """The last one started."""
        return f"w{self.starts}"

    @asynccontextmanager
    async def process(self) -> AsyncIterator[FusedServer]:
        """A process's connection. The store need not answer when it starts."""
        server = FusedServer(self.url, LIBRARY, self.fuse)
        try:
            with suppress(QueueUnavailable):
                await server.install()
            yield server
        finally:
            await server.aclose()

    @asynccontextmanager
    async def submitter(self, server: Server) -> AsyncIterator[RedisQueue]:
        """The queue of an API process."""
        yield RedisQueue(server, shards=self.shards, limits=self.limits)

    @asynccontextmanager
    async def api(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of an API process."""
        async with self.process() as server, self.submitter(server) as queue:
            services: Services = self.app.state.services
            services.queue = queue
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://api") as client:
                yield client

    async def pass_time(self, ms: int) -> None:
        async with Redis.from_url(self.url) as raw:
            await raw.incrby(CLOCK_KEY, ms * 1_000)


# What clients do


async def ask(http: httpx.AsyncClient, method: str, path: str, **content: Any) -> dict[str, Any]:
    for _ in range(PATIENCE):
        answer = await http.request(method, path, **content)
        if answer.status_code != 503:
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            return found
    raise AssertionError(f"{method} {path} is not answered")


async def send(stage: Stage, http: httpx.AsyncClient, key: str, max_tokens: int, timeout_s: int = 3_600) -> None:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": max_tokens}
    headers = {"Idempotency-Key": key, "X-Request-Timeout": str(timeout_s)}
    told = (await ask(http, "POST", "/v1/jobs", json=body, headers=headers))["id"]
    assert stage.ids.setdefault(key, told) == told


async def submit(stage: Stage) -> None:
    async with stage.api() as http:
        await send(stage, http, ANSWERED, TOKENS)
        await send(stage, http, ABANDONED, MORE_TOKENS)


async def abandon(stage: Stage) -> None:
    async with stage.api() as http:
        job = await ask(http, "POST", f"/v1/jobs/{stage.ids[ABANDONED]}/cancel")
        assert job["cancel_requested"] or job["status"] == "cancelled"


async def read(stage: Stage) -> None:
    async with stage.api() as http:
        job = await ask(http, "GET", f"/v1/jobs/{stage.ids[ANSWERED]}")
        assert job["result"]["choices"][0]["text"] == text_of(answer_to(PROMPT_IDS, TOKENS))


async def change_mind(stage: Stage) -> None:
    async with stage.api() as http:
        await send(stage, http, UNWANTED, TOKENS)
        job = await ask(http, "POST", f"/v1/jobs/{stage.ids[UNWANTED]}/cancel")
        assert job["status"] == "cancelled"
        await send(stage, http, LATE, TOKENS, timeout_s=1)


# What the others do


class Silence:
    """Nobody rings: how often a worker looks would depend on when it hears. One that has computed nothing between two waits may go."""

    def __init__(self, clock: Callable[[], float], stop: Callable[[], None]) -> None:
        self._clock = clock
        self._stop = stop
        self._last = -1.0

    async def wait(self, timeout: float) -> frozenset[str]:
        if self._clock() == self._last:
            self._stop()
        self._last = self._clock()
        return frozenset()


class QuietQueue(RedisQueue):
    bell: Doorbell

    @asynccontextmanager
    async def work_doorbell(self) -> AsyncIterator[Doorbell]:
        yield self.bell


class EngineDied(Exception):
    """The process ends, whatever it holds."""


class Shift(ScriptedEngine):
    """Something happens at the end of so many steps. Its steps make the worker's time."""

    def __init__(self, steps: int, happens: Callable[[], None]) -> None:
        super().__init__()
        self.now = 0.0
        self._left = steps
        self._happens = happens

    def step(self, timeout: float) -> list[Delta]:
        deltas = super().step(timeout)
        if deltas:
            self.now += STEP_S
            self._left -= 1
            if self._left == 0:
                self._happens()
        return deltas


async def work(stage: Stage, *, steps: int, then: Callable[[Worker], None]) -> None:
    async with stage.process() as server:
        queue = QuietQueue(server, shards=stage.shards, limits=stage.limits)
        shift = Shift(steps, lambda: then(worker))
        engine = InlineEngine(shift)
        timing = Timing(lease=LEASE_MS / 1_000, retry_first=0.0, retry_longest=0.0)
        worker = Worker(name=stage.worker, model=MODEL, queue=queue, engine=engine, timing=timing, clock=lambda: shift.now)
        queue.bell = Silence(lambda: shift.now, worker.stop)
        with suppress(EngineDied):
            await worker.run()
        engine.close()


def die(_worker: Worker) -> None:
    raise EngineDied


async def reap(stage: Stage) -> None:
    async with stage.process() as server:
        queue = RedisQueue(server, shards=stage.shards, limits=stage.limits)
        for _ in range(PATIENCE):
            with suppress(QueueUnavailable):
                await queue.reap_worker(stage.worker)
                return
    raise AssertionError(f"{stage.worker} cannot be reaped")


async def sweep(stage: Stage, *, after_ms: int, until: str) -> None:
    """A janitor comes `after_ms` later, and ticks until this sweep of his was carried out."""
    await stage.pass_time(after_ms)
    clock, swept = ManualClock(0), set[str]()
    async with stage.process() as server:
        janitor = Janitor(
            RedisQueue(server, shards=stage.shards, limits=stage.limits),
            interval=1.0,
            lease=LEASE_MS,
            viewer_grace=LEASE_MS,
            clock=clock,
            swept=lambda name, _moved: swept.add(name),
        )
        for _ in range(PATIENCE):
            await janitor.tick()
            if until in swept:
                return
            clock.advance(LEASE_MS)
            await stage.pass_time(LEASE_MS)
    raise AssertionError(f"'{until}' was never swept")


class Actor(Enum):
    API = auto()
    WORKER = auto()
    SUPERVISOR = auto()
    SCHEDULER = auto()
    PUMP = auto()


class Act(NamedTuple):
    actor: Actor
    play: Callable[[Any], Coroutine[Any, Any, None]]
    """On the stage of its story."""


LEASES_LAPSE = partial(sweep, after_ms=LEASE_MS, until="unattended")


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    acts: tuple[Act, ...]
    limits: QueueLimits
    epilogue: tuple[Act, ...]
    """After it nothing is left."""
    open: Callable[[str, FastAPI, Fuse, int], Stage]
    """A stage without a past: the store's URL, the app, the fuse, and the number of shards."""
    check: Callable[[Any, Mapping[str, Job]], Coroutine[Any, Any, None]]
    """On that stage, asserts what has become of the jobs, by their ids, before the epilogue."""


def _open(url: str, app: FastAPI, fuse: Fuse, shards: int) -> Stage:
    return Stage(url, app, fuse, shards, LIMITS)


async def _check(stage: Stage, jobs: Mapping[str, Job]) -> None:
    assert {key: (jobs[job_id].state, jobs[job_id].reason) for key, job_id in stage.ids.items()} == ENDS
    assert len(jobs) == len(ENDS)
    assert jobs[stage.ids[ANSWERED]].committed == TOKENS


STORY = Story(
    acts=(
        Act(Actor.API, submit),
        Act(Actor.WORKER, partial(work, steps=2, then=Worker.stop)),
        Act(Actor.WORKER, partial(work, steps=3, then=die)),
        Act(Actor.API, abandon),
        Act(Actor.SUPERVISOR, reap),
        Act(Actor.SCHEDULER, LEASES_LAPSE),
        Act(Actor.WORKER, partial(work, steps=MORE_TOKENS, then=Worker.stop)),
        Act(Actor.API, read),
        Act(Actor.API, change_mind),
        Act(Actor.SCHEDULER, partial(sweep, after_ms=2_000, until="purged")),
    ),
    limits=LIMITS,
    epilogue=(Act(Actor.SCHEDULER, partial(sweep, after_ms=LIMITS.retention_ms, until="purged")),),
    open=_open,
    check=_check,
)
