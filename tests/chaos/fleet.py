"""The processes of a run: two APIs, three workers, two schedulers, two clerks and a Valkey, each with a wire of its own to the store."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace.embedded import EmbeddedValkey
from headrace.keys import key_line
from headrace.testing.eventually import eventually
from headrace.testing.tree import free_port
from tests.chaos.member import Member, clean_environ, send
from tests.chaos.model import NAME, POISON_ID, make_chaos_model
from tests.chaos.orders import TENANTS
from tests.chaos.plan import Target
from tests.chaos.replicas import api_key
from tests.chaos.versions import CLOCK_OFFSET, Version
from tests.chaos.wires import Wires, wires_to
from tests.chaos.worker import POISON, READS

SIZES = {Target.API: 2, Target.WORKER: 3, Target.SCHEDULER: 2, Target.CLERK: 2}
READY_S = 60.0
GRACE_S = 120.0
"""Of viewers: what faults and clocks that run ahead may take of it leaves enough for whoever comes back."""
KEYS = "keys"
SETTINGS = {
    "HEADRACE_LEASE_MS": "1500",
    "HEADRACE_STEP_TIMEOUT_S": "8",
    "HEADRACE_VIEWER_GRACE_MS": f"{GRACE_S * 1_000:.0f}",
    "HEADRACE_PING_S": "1",
    "HEADRACE_SHUTDOWN_S": "2",
    "HEADRACE_MAX_RUNNING": "32",
    "PYTHONUNBUFFERED": "1",
    POISON: str(POISON_ID),
}
COMMANDS = {
    Target.API: ("-m", "producer_api", "--supervised"),
    Target.SCHEDULER: ("-m", "scheduler", "--supervised"),
    Target.CLERK: ("-m", "scheduler.batches", "--supervised"),
    Target.WORKER: (str(Path(__file__).with_name("worker.py")),),
}


class Fleet:
    def __init__(self, folder: Path, valkey: EmbeddedValkey, wires: Wires, version: Version) -> None:
        self.wires = wires
        self.urls: list[str] = []
        """Of the APIs."""
        self.drains: dict[Target, list[float]] = {role: [] for role in SIZES}
        """Seconds from SIGTERM to the end of the process, of every rolling restart."""
        self._valkey = valkey
        self._offset_us = 0
        self._store_busy = asyncio.Lock()
        self._rolling = asyncio.Lock()
        self._members = {role: [self._member(role, index, folder, version) for index in range(size)] for role, size in SIZES.items()}

    @property
    def members(self) -> list[Member]:
        return [member for members in self._members.values() for member in members]

    def pick(self, role: Target, index: int) -> Member:
        members = self._members[role]
        return members[index % len(members)]

    async def ready(self) -> None:
        """Every API takes requests, and a worker is there to run them."""
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as http:

            async def all_there() -> bool:
                try:
                    answers = [await http.get(f"{url}/ready") for url in self.urls]
                    health = await http.get(f"{self.urls[0]}/health")
                except httpx.TransportError:
                    return False
                return all(answer.is_success for answer in answers) and bool(health.json()["workers"])

            await eventually(all_there, READY_S, pause=0.1)

    async def roll(self, version: Version) -> None:
        """One process after the other, an API only once the other one is back."""
        async with self._rolling:
            for member in self.members:
                if member.role is Target.API:
                    await self.ready()
                self.drains[member.role].append(await member.restart(version))

    async def stop(self) -> None:
        """Every process but the store. Harmless if they have stopped."""
        await asyncio.gather(*(member.stop() for member in self.members))

    async def kill_store(self, away_s: float) -> None:
        """kill -9, and the start on the same file, `away_s` later."""
        async with self._store_busy:
            self._valkey.process.kill()
            self._valkey.process.wait()
            await asyncio.sleep(away_s)
            await asyncio.to_thread(self._valkey.start)

    async def kill_all(self) -> None:
        for member in self.members:
            for engine in member.engines():
                send(engine, signal.SIGKILL)
            member.signal(signal.SIGKILL)
        await self.kill_store(0.0)

    async def jump(self, seconds: float) -> None:
        """The store's clock is wrong by so much more from now on."""
        self._offset_us += round(seconds * 1_000_000)
        async with Redis.from_url(self._valkey.url) as store:

            async def set_offset() -> bool:
                try:
                    return bool(await store.set(CLOCK_OFFSET, self._offset_us))
                except (RedisError, OSError):
                    return False

            await eventually(set_offset, READY_S, pause=0.1)

    def _member(self, role: Target, index: int, folder: Path, version: Version) -> Member:
        name = f"{role}-{index}"
        environ = {
            **clean_environ(),
            **SETTINGS,
            "HEADRACE_REDIS_URL": self.wires.url(name),
            "HEADRACE_MODEL": str(folder / NAME),
            "HEADRACE_FILES_DIR": str(folder / "files"),
            "HEADRACE_KEYS_FILE": str(folder / KEYS),
        }
        if role is Target.API:
            port = free_port()
            self.urls.append(f"http://127.0.0.1:{port}")
            environ["HEADRACE_PORT"] = str(port)
        if role is Target.SCHEDULER:
            # Which believes that nobody waits only so long after its own outages, and here there is always one.
            environ["HEADRACE_VIEWER_GRACE_MS"] = "2000"
        if role is Target.WORKER:
            environ["HEADRACE_WORKER_NAME"] = name
            environ["HEADRACE_STANDBY"] = "0" if index == 0 else "1"
        # One of the older workers knows no record of the second version. Only one: if they are old to the end, somebody must run those.
        when_old = {READS: "1"} if role is Target.WORKER and index == 1 else {}
        return Member(name, role, COMMANDS[role], environ, folder / "logs" / f"{name}.log", version, when_old)


@asynccontextmanager
async def sailing(folder: Path, version: Version) -> AsyncIterator[tuple[Fleet, EmbeddedValkey]]:
    """A fleet that is ready, and the store, which outlives it. At the end all of it is stopped, whatever happens."""
    make_chaos_model(folder / NAME)
    (folder / KEYS).write_text("".join(f"{key_line(api_key(tenant), tenant)}\n" for tenant in TENANTS))
    (folder / "logs").mkdir()
    valkey = EmbeddedValkey(folder / "valkey")
    await asyncio.to_thread(valkey.start)
    try:
        names = [f"{role}-{index}" for role, size in SIZES.items() for index in range(size)]
        async with wires_to(_address(valkey), names) as wires, AsyncExitStack() as stack:
            fleet = Fleet(folder, valkey, wires, version)
            runs = [asyncio.ensure_future(member.run()) for member in fleet.members]
            stack.push_async_callback(_stop, fleet, runs)
            await fleet.ready()
            yield fleet, valkey
    finally:
        await asyncio.to_thread(valkey.stop)


async def _stop(fleet: Fleet, runs: Sequence["asyncio.Future[None]"]) -> None:
    await fleet.stop()
    await asyncio.gather(*runs)


def _address(valkey: EmbeddedValkey) -> str:
    """As a proxy takes it."""
    return str(valkey.data_dir / "valkey.sock") if valkey.url.startswith("unix:") else valkey.url
