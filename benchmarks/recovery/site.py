"""What every measurement stands on: a store that is brought back when it dies, a scheduler, and the queue to submit to and to look at."""

import asyncio
import os
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
from rich.console import Console

from headrace.cli.events import Events
from headrace.cli.living_valkey import living_valkey
from headrace.cursor import START
from headrace.errors import QueueUnavailable
from headrace.ids import new_job_id
from headrace.job import LogEntry
from headrace.model_folder import default_name
from headrace.ports import Submission
from headrace.queues.redis import RedisQueue
from headrace.request import Endpoint, Lane, Request, Sampling
from headrace.testing.eventually import eventually

WITHIN_S = 180.0
LOOK_S = 0.005
"""Between two looks at a log: what a measured time may be too long by."""
MAX_TOKENS = 4_000
TOKENS_BEFORE = 10
"""Committed before anything happens to a request."""
TENANT = "default"


class Site:
    def __init__(self, folder: Path, url: str, queue: RedisQueue, model: str, prompt_ids: tuple[int, ...]) -> None:
        """`model` as HEADRACE_MODEL names it, and a prompt for it."""
        self.folder = folder
        self.url = url
        self.queue = queue
        self.model = model
        self.served = default_name(model)
        self._prompt_ids = prompt_ids

    @classmethod
    @asynccontextmanager
    async def open(cls, model: str, prompt_ids: tuple[int, ...]) -> AsyncIterator["Site"]:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = await stack.enter_async_context(living_valkey(folder / "valkey", Events(Console(quiet=True), folder / "tree.log")))
            queue = await RedisQueue.connect(url)
            stack.push_async_callback(queue.aclose)
            site = cls(folder, url, queue, model, prompt_ids)
            await stack.enter_async_context(site.running("scheduler", folder / "scheduler.log"))
            yield site

    async def start(self, module: str, log: Path, **settings: str) -> Process:
        """`python -m module` on this store. It stops with this process, however that ends."""
        env = os.environ | {"HEADRACE_REDIS_URL": self.url, "HEADRACE_MODEL": self.model, **settings}
        with log.open("ab") as out:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, "--supervised"), env=env, stdin=asyncio.subprocess.PIPE, stdout=out, stderr=out
            )

    @asynccontextmanager
    async def running(self, module: str, log: Path) -> AsyncIterator[Process]:
        process = await self.start(module, log)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    @property
    def store(self) -> psutil.Process:
        """The Valkey process that lives."""
        return next(child for child in psutil.Process().children() if child.name() == "valkey-server")

    async def submit(self, prompt_ids: tuple[int, ...] = ()) -> Request:
        """Runs until it is cancelled, or nearly so."""
        request = Request(
            id=new_job_id(0, time.time_ns() // 1_000_000),
            tenant=TENANT,
            model=self.served,
            endpoint=Endpoint.CHAT,
            lane=Lane.STANDARD,
            prompt_ids=prompt_ids or self._prompt_ids,
            sampling=Sampling(max_tokens=MAX_TOKENS, temperature=0.0, seed=0, ignore_eos=True),
            created=int(time.time()),
            stream=False,
            attended=False,
        )
        await self.queue.accept(Submission(request=request, idempotency_key=None, body_hash="", ttl_ms=3_600_000))
        return request

    async def cancel(self, request: Request) -> None:
        """Returns once nobody runs it any more."""
        await self.queue.cancel(TENANT, request.id)

        async def ended() -> bool:
            return (await self.queue.get(TENANT, request.id)).ended_ms is not None

        await eventually(ended, WITHIN_S, pause=LOOK_S)

    async def in_swing(self, request: Request) -> LogEntry:
        """Its last entry, once it runs and there are some."""
        log = await self.entries(request, lambda log: len(log) >= TOKENS_BEFORE)
        return log[-1]

    async def entries(self, request: Request, enough: Callable[[list[LogEntry]], bool], after: LogEntry | None = None) -> list[LogEntry]:
        """Those behind `after`, as soon as they are enough. The store may be away meanwhile."""

        async def look() -> list[LogEntry]:
            try:
                log = await self.queue.read_log(TENANT, request.id, after.position if after else START, MAX_TOKENS)
            except QueueUnavailable:
                return []
            return log if log and enough(log) else []

        return await eventually(look, WITHIN_S, pause=LOOK_S)

    async def taken_over(self, request: Request, last: LogEntry) -> None:
        """Returns with the first token of a later epoch than `last`."""
        await self.entries(request, lambda log: log[-1].position.epoch > last.position.epoch, last)

    async def at_work(self) -> int:
        """The engine process that runs something, once it is the only one that says so."""

        async def look() -> int:
            pids = [status.pid for status in await self.queue.workers() if status.active_requests and psutil.pid_exists(status.pid)]
            return pids[0] if len(pids) == 1 else 0

        return await eventually(look, WITHIN_S, pause=0.05)
