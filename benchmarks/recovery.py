"""How long a stream pauses when its engine process is killed: python -m benchmarks.recovery [-n 20] [--model SPEC] [--situation NAME]

From kill -9 to the next token in the log, with real processes and an embedded Valkey that fsyncs every write. Each kill meets one running
request of a short prompt and comes when every process there should be is ready again. All figures of one run belong together; on a shared
machine they mean little beyond their order.
"""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.workload import mix
from headrace.embedded import EmbeddedValkey
from headrace.ids import new_job_id
from headrace.model_folder import DEMO_MODEL, default_name
from headrace.ports import START, LogEntry, Submission
from headrace.queues.redis import RedisQueue
from headrace.request import Endpoint, Lane, Request, Sampling
from headrace.settings import load_settings
from headrace.testing.eventually import eventually
from workers.convert import ensure_folder

WITHIN_S = 180.0
MAX_TOKENS = 4_000
TOKENS_BEFORE = 10
TENANT = "benchmark"


@dataclass(frozen=True)
class Situation:
    name: str
    workers: int
    standby: int

    @property
    def processes(self) -> int:
        return self.workers * (1 + self.standby)


SITUATIONS = (Situation("a standby", 1, 1), Situation("a second worker", 2, 0), Situation("alone", 1, 0))


class Fleet:
    """Supervisors with their engine processes, writing to one log."""

    def __init__(self, situation: Situation, queue: RedisQueue, log: Path, model: str, prompt_ids: tuple[int, ...]) -> None:
        self._situation = situation
        self._queue = queue
        self._log = log
        self._model = model
        self._prompt_ids = prompt_ids
        self._kills = 0

    @asynccontextmanager
    async def run(self, redis_url: str) -> AsyncIterator[None]:
        env = os.environ | {
            "HEADRACE_REDIS_URL": redis_url,
            "HEADRACE_MODEL": self._model,
            "HEADRACE_STANDBY": str(self._situation.standby),
        }
        with self._log.open("ab") as out:
            workers = [
                await asyncio.create_subprocess_exec(sys.executable, "-m", "workers", env=env, stdout=out, stderr=out)
                for _ in range(self._situation.workers)
            ]
        try:
            await self._all_ready()
            yield
        finally:
            for worker in workers:
                worker.terminate()
            await asyncio.gather(*(worker.wait() for worker in workers))

    async def kill_once(self) -> float:
        """Seconds from the kill to the next token."""
        request = await self._submit()
        log = await self._log_when(request, lambda log: len(log) >= TOKENS_BEFORE)
        pid = await eventually(self._busy, WITHIN_S, pause=0.05)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        epoch = log[-1].position.epoch
        await self._log_when(request, lambda log: log[-1].position.epoch > epoch)
        seconds = time.monotonic() - began
        self._kills += 1
        await self._queue.cancel(TENANT, request.id)
        await self._all_ready()
        return seconds

    async def memory(self) -> str:
        """Resident and proportional megabytes of the engine processes."""
        found = []
        for process in psutil.process_iter():
            if "--pulse" in process.cmdline():
                info = process.memory_full_info()
                found.append(f"{info.rss >> 20} / {info.pss >> 20}")
        return ", ".join(found)

    async def _submit(self) -> Request:
        sampling = Sampling(max_tokens=MAX_TOKENS, temperature=0.0, seed=0, ignore_eos=True)
        request = Request(
            id=new_job_id(0, time.time_ns() // 1_000_000),
            tenant=TENANT,
            model=default_name(self._model),
            endpoint=Endpoint.CHAT,
            lane=Lane.STANDARD,
            prompt_ids=self._prompt_ids,
            sampling=sampling,
            created=int(time.time()),
            stream=False,
            attended=False,
        )
        await self._queue.accept(Submission(request=request, idempotency_key=None, body_hash="", ttl_ms=3_600_000))
        return request

    async def _log_when(self, request: Request, condition: Callable[[list[LogEntry]], bool]) -> list[LogEntry]:
        async def look() -> list[LogEntry]:
            log = await self._queue.read_log(TENANT, request.id, START, 2 * MAX_TOKENS)
            return log if log and condition(log) else []

        return await eventually(look, WITHIN_S, pause=0.002)

    async def _busy(self) -> int:
        """The process that runs the request; 0 until it is the only one that says so."""
        pids = [status.pid for status in await self._queue.workers() if status.active_requests and psutil.pid_exists(status.pid)]
        return pids[0] if len(pids) == 1 else 0

    async def _all_ready(self) -> None:
        async def warm() -> bool:
            return self._log.read_text().count("is warmed up on") == self._situation.processes + self._kills

        await eventually(warm, WITHIN_S, pause=0.05)


async def measure(situation: Situation, kills: int, model: str, prompt_ids: tuple[int, ...]) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        valkey = EmbeddedValkey(folder / "valkey")
        valkey.start()
        stack.callback(valkey.stop)
        queue = await RedisQueue.connect(valkey.url)
        stack.push_async_callback(queue.aclose)
        fleet = Fleet(situation, queue, folder / "workers.log", model, prompt_ids)
        await stack.enter_async_context(fleet.run(valkey.url))
        memory = await fleet.memory()
        seconds = sorted([await fleet.kill_once() for _ in range(kills)])
        p50, p99 = statistics.median(seconds), seconds[min(kills - 1, int(0.99 * kills))]
        print(
            f"| {situation.name} | {kills} | {p50:.2f} s | {p99:.2f} s | {seconds[0]:.2f} to {seconds[-1]:.2f} s | {memory} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=20, help="kills in each situation")
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--situation", choices=[situation.name for situation in SITUATIONS], action="append", default=[])
    arguments = parser.parse_args()
    folder = ensure_folder(arguments.model, load_settings().cache_dir)
    prompt_ids = mix(folder, 1)[0].prompt_ids
    print("| with | kills | p50 | p99 | range | MB resident / proportional |\n|---|---|---|---|---|---|", flush=True)
    for situation in SITUATIONS:
        if not arguments.situation or situation.name in arguments.situation:
            asyncio.run(measure(situation, arguments.n, arguments.model, prompt_ids))


if __name__ == "__main__":
    main()
