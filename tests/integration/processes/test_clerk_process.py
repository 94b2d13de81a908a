"""What `python -m scheduler.batches` says when its task queue comes and goes, and of a batch that it cannot work on."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from headrace.batch import NewBatch, Span, TopicRange
from headrace.embedded import EmbeddedValkey
from headrace.errors import QueueUnavailable
from headrace.ids import new_batch_id, new_file_id
from headrace.registries.batches import PREFIX
from headrace.registries.connect import connect
from headrace.request import Endpoint
from headrace.settings import Settings
from headrace.testing.builders import DAY_MS
from headrace.testing.child import running
from headrace.testing.eventually import eventually
from headrace.testing.serving import serving
from scheduler.batches.desk import Desk
from scheduler.batches.tasks import OFFICE


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path_factory.mktemp("v"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def log(server: EmbeddedValkey, tmp_path: Path) -> Iterator[Path]:
    """Of a clerk that runs."""
    log = tmp_path / "log"
    env = {**os.environ, "HEADRACE_REDIS_URL": server.url, "HEADRACE_FILES_DIR": str(tmp_path / "files")}
    with log.open("wb") as out:
        clerk = subprocess.Popen([sys.executable, "-m", "scheduler.batches"], env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield log
        clerk.terminate()
        assert clerk.wait(30) == 0
    finally:
        clerk.kill()
        clerk.wait()


def read(log: Path) -> str:
    return log.read_text()


async def told(log: Path, words: str, times: int = 1) -> str:
    async def look() -> str | None:
        said = read(log)
        return said if said.count(words) >= times else None

    try:
        return await eventually(look, within=60, pause=0.05)
    except TimeoutError:
        raise AssertionError(f"not {times} × {words!r}:\n{read(log)}") from None


async def test_the_loss_of_the_task_queue_and_its_end_are_one_line_each(server: EmbeddedValkey, log: Path) -> None:
    await told(log, "takes tasks")
    server.process.kill()
    server.process.wait()
    await told(log, "no tasks for now")
    await asyncio.to_thread(server.start)
    said = await told(log, "takes tasks", 2)
    assert said.count("no tasks for now") == 1
    assert "Traceback" not in said
    assert len(said.splitlines()) == 3, said


class Cut:
    """An office whose task loses the server, and whose clerk is told to stop."""

    async def work_on(self, batch_id: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise QueueUnavailable(f"gone, with {batch_id}")

    async def sweep(self) -> None:
        raise NotImplementedError


def test_a_loss_that_cuts_a_task_short_is_one_line(server: EmbeddedValkey, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(server.url)
    desk.work_on("batch_1")
    token, handlers = OFFICE.set(Cut()), [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        desk.serve(on_ready=lambda: None, on_stop=lambda: None)
    finally:
        OFFICE.reset(token)
        for number, handler in handlers:
            signal.signal(number, handler)
        desk.close()
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line == "a task was cut short, and comes again: gone, with batch_1"


async def test_a_fault_is_logged_with_its_batch(server: EmbeddedValkey, log: Path) -> None:
    new = NewBatch(id=new_batch_id(), tenant="alice", endpoint=Endpoint.CHAT, input_file_id=new_file_id())
    async with connect(Settings(redis_url=server.url)) as registries:
        await registries.batches.create(new, window_ms=DAY_MS, idempotency_key=None, body_hash="")
    with Redis.from_url(server.url) as store:
        store.hset(f"{PREFIX}record:{new.id}", "status", "of a later version")
    desk = Desk(server.url)
    desk.work_on(new.id)
    said = await told(log, f"batch {new.id}")
    desk.close()
    assert "SchemaUnknown: cannot read a stored batch" in said


@pytest.mark.kafka
@pytest.mark.parametrize("listens", [True, False], ids=["silent", "refusing"])
async def test_who_waits_for_brokers_stops_in_seconds(server: EmbeddedValkey, tmp_path: Path, listens: bool) -> None:
    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    span = Span(partition=0, start=0, end=1)
    new = NewBatch(
        id=new_batch_id(),
        tenant="alice",
        endpoint=Endpoint.CHAT,
        input_file_id=new_file_id(),
        input_topic=TopicRange(topic="t", spans=(span,)),
    )
    log = tmp_path / "log"
    async with connect(Settings(redis_url=server.url)) as registries, serving(say_nothing) as port:
        await registries.batches.create(new, window_ms=DAY_MS, idempotency_key=None, body_hash="")
        env = {
            **os.environ,
            "HEADRACE_REDIS_URL": server.url,
            "HEADRACE_QUEUE_URL": f"kafka://127.0.0.1:{port if listens else 1}",
            "HEADRACE_FILES_DIR": str(tmp_path / "files"),
        }
        with log.open("wb") as out:
            async with running("scheduler.batches", env, out) as clerk:
                await told(log, "takes tasks")
                desk = Desk(server.url)
                desk.work_on(new.id)
                desk.close()

                async def waits() -> bool:
                    return any((tmp_path / "files" / "scratch").iterdir())

                await eventually(waits, within=20)
                began = time.monotonic()
                clerk.terminate()
                assert await asyncio.wait_for(clerk.wait(), 30) == 0
                assert time.monotonic() - began < 5, read(log)
        assert "is left to another clerk" in read(log)
        assert await registries.batches.dispatch(10, 1_000) == [new.id]
