"""`headrace up`: everything in one supervised tree.

    headrace up
    ├── valkey-server        unless --redis-url names another store
    ├── python -m scheduler
    ├── python -m scheduler.batches
    ├── python -m scheduler.kafka      if HEADRACE_QUEUE_URL names a Kafka
    ├── python -m workers    └── its engine process
    └── python -m producer_api

Any child that dies is started again, and so is an engine or a Valkey that hangs; the console and `logs/tree.log` say how it ended, and when
it is well again. On SIGTERM or Ctrl-C they stop from the outside in: the API first, so nothing new is accepted; then the worker, which
gives back what it runs; then the clerk and the pump, which write down what the worker has finished; the store last, when nobody writes any
more.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.markup import escape

from headrace.cli.events import Events
from headrace.cli.living_valkey import living_valkey
from headrace.cli.worker_log import WorkerLog
from headrace.errors import HeadraceError
from headrace.lifecycle import on_stop_signal
from headrace.supervise import STEADY_S, Supervised, ending
from headrace.tidings import Ear

STILL_STARTING_S = 15.0
"""A large model takes minutes to convert or load, and a store may never answer: say so now and then, and wait on."""
READY_POLL_S = 0.1
CONVERTING = "the model is being converted, once (the demo model takes about half a minute)"
LOADING = "the worker is loading the model"
WORKERS = "workers"

#: Stopped in this order; seconds each may take.
STOP_ORDER = (("producer_api", 12.0), (WORKERS, 12.0), ("scheduler.batches", 12.0), ("scheduler.kafka", 12.0), ("scheduler", 5.0))
WITH_KAFKA = frozenset({"scheduler.kafka"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. `redis_url` None: an embedded Valkey under `data_dir`."""

    host: str
    port: int
    data_dir: Path
    redis_url: str | None
    model: str
    """The name it is served under."""
    environ: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    def log_of(self, package: str) -> Path:
        return self.logs / f"{package}.log"


async def up(plan: Plan, console: Console) -> None:
    """Run the tree until SIGTERM or SIGINT. Raises HeadraceError if it cannot start or a child cannot run with its configuration."""
    stop = asyncio.Event()
    ensure_port_free(plan.host, plan.port)
    try:
        plan.logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeadraceError(f"cannot create the data folder {plan.data_dir} ({error.strerror}); choose another with --data-dir") from None
    events = Events(console, plan.logs / "tree.log")
    async with AsyncExitStack() as stack:
        redis_url = plan.redis_url
        if redis_url is None:
            redis_url = await stack.enter_async_context(living_valkey(plan.data_dir / "valkey", events))
        # Only now: a store that loads a large file may be interrupted, and dies with this process.
        on_stop_signal(stop.set)
        ear = stack.enter_context(closing(_ear(plan, events)))
        log = WorkerLog(plan.log_of(WORKERS))
        children = _children(plan, redis_url, events, ear)
        runs = [asyncio.ensure_future(child.run()) for child in children.values()]
        try:
            await _first_of(stop, [asyncio.ensure_future(_announce(plan, console, log)), *runs])
        finally:
            console.print("Stopping …", style="dim")
            for name, grace in STOP_ORDER:
                if name in children:
                    await children[name].stop(grace)
            await asyncio.gather(*runs, return_exceptions=True)


def ensure_port_free(host: str, port: int) -> None:
    """Raises HeadraceError if something listens there already: the API's log is a poor place to learn it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise HeadraceError(f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port") from None


def _ear(plan: Plan, events: Events) -> Ear:
    """For what the worker tells of its engine, a process that nobody else sees. Nothing to tell of a first start that goes well."""

    def heard(well: bool, line: str) -> None:
        if not well:
            events.tell(f"{line}; see {plan.log_of(WORKERS)}", style="yellow")
        elif events.any_told:
            events.tell(line, style="green")

    return Ear(heard)


def _children(plan: Plan, redis_url: str, events: Events, ear: Ear) -> dict[str, Supervised]:
    env = {
        **plan.environ,
        "HEADRACE_REDIS_URL": redis_url,
        "HEADRACE_HOST": plan.host,
        "HEADRACE_PORT": str(plan.port),
        "HEADRACE_FILES_DIR": plan.environ.get("HEADRACE_FILES_DIR") or str(plan.data_dir / "files"),
        "PYTHONUNBUFFERED": "1",
    }
    ears = {WORKERS: ear}
    wanted = [package for package, _ in STOP_ORDER if env.get("HEADRACE_QUEUE_URL") or package not in WITH_KAFKA]
    return {package: _child(package, env, plan.log_of(package), events, ears.get(package)) for package in wanted}


def _child(package: str, env: Mapping[str, str], log: Path, events: Events, ear: Ear | None) -> Supervised:
    async def died(_start: int, code: int) -> None:
        if not child.stopping:
            events.tell(f"{package} ended unexpectedly ({ending(code)}) and is started again; see {log}", style="yellow")

    def steady(start: int) -> None:
        if start and not child.stopping:
            events.tell(f"{package} runs again, for {STEADY_S:.0f} s now", style="green")

    tell = () if ear is None else ("--tell", str(ear.fd))
    command = [sys.executable, "-m", package, "--supervised", *tell]
    pass_fds = () if ear is None else (ear.fd,)
    child = Supervised(package, lambda _start: command, env=env, log=log, on_death=died, on_steady=steady, pass_fds=pass_fds)
    return child


async def _announce(plan: Plan, console: Console, log: WorkerLog) -> None:
    """One line when the tree can take and run work; a spinner with the reasons until then. Then waits for ever."""
    started = time.monotonic()
    said = ""
    store = "" if plan.redis_url is None else f"no answer from {address_of(plan.redis_url)}, trying on (queue unreachable)"
    with console.status("starting …") as status:
        async with httpx.AsyncClient(base_url=plan.url, timeout=2.0, trust_env=False) as client:
            told_at = started
            while (waiting_for := await _waiting_for(client, log)) is not None:
                if store:
                    waiting_for = waiting_for.replace("queue unreachable", store)
                if time.monotonic() - told_at > STILL_STARTING_S:
                    told_at = time.monotonic()
                    console.print(f"Still starting after {told_at - started:.0f} s: {waiting_for}. Logs: {plan.logs}", soft_wrap=True)
                status.update(f"starting: {waiting_for}")
                if not console.is_terminal and waiting_for != said:
                    console.print(f"starting: {waiting_for}", soft_wrap=True)
                said = waiting_for
                await asyncio.sleep(READY_POLL_S)
    took = time.monotonic() - started
    console.print(f"Headrace is ready: {plan.url}/v1 · model {plan.model} · data {plan.data_dir} · {took:.1f} s", soft_wrap=True)
    await asyncio.Event().wait()


def address_of(redis_url: str) -> str:
    """Host and port, or a socket's path: the rest of the URL may hold a password."""
    try:
        parts = urlsplit(redis_url)
        return parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
    except ValueError:  # the children refuse it, in words of their own
        return "--redis-url"


async def _waiting_for(client: httpx.AsyncClient, log: WorkerLog) -> str | None:
    """What is still missing, in words; None once requests are taken and a worker is there to run them."""
    try:
        ready = await client.get("/ready")
        if ready.status_code != 200:
            reasons: list[str] = ready.json()["reasons"]
            return "; ".join(CONVERTING if "no model folder" in reason else reason for reason in reasons)
        workers = (await client.get("/health")).json()["workers"]
    except (httpx.TransportError, ValueError, KeyError):  # not listening, or not yet able to answer as it should
        return "the API is starting"
    if workers:
        return None
    said = log.last()
    return LOADING if said is None else f"{LOADING}: {escape(said)}"


async def _first_of(stop: asyncio.Event, runs: Sequence["asyncio.Future[Any]"]) -> None:
    """Until told to stop, or until something that should run for ever ends: then its error is raised."""
    announcing = runs[0]
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([stopping, *runs], return_when=asyncio.FIRST_COMPLETED)
        for run in runs:
            if run.done():
                run.result()
    finally:
        for task in (stopping, announcing):
            task.cancel()
        await asyncio.gather(stopping, announcing, return_exceptions=True)
