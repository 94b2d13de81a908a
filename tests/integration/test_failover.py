"""A primary that is lost, and a replica that takes its place: what was copied is there, and the library with it."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace.cursor import START
from headrace.embedded import find_binary
from headrace.errors import JobNotFound, QueueUnavailable
from headrace.ports import Append, Claim, Finish, Submission, Verdict
from headrace.queues.connect import connect
from headrace.queues.redis import RedisQueue
from headrace.request import Lane
from headrace.settings import Settings
from headrace.state import State
from headrace.testing.builders import make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.proxy import Proxy, proxy_to
from headrace.testing.tree import free_port

MAX_LAG_S = 1
"""A replica that has not been heard of for so long does not count."""


@dataclass(frozen=True)
class Node:
    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        return Redis.from_url(self.url)

    async def answers(self) -> bool:
        try:
            async with self.client() as raw:
                return bool(await raw.ping())
        except (RedisError, OSError):
            return False

    async def takes_writes(self) -> bool:
        try:
            async with connected(self) as queue:
                await queue.ping()
        except QueueUnavailable:
            return False
        return True

    async def copied(self) -> bool:
        """Everything written so far is with a replica. (WAIT looks no further than the last write of its own connection.)"""
        async with self.client() as raw:
            await raw.set("last", 1)
            return bool(await raw.wait(1, 5_000) >= 1)

    async def promote(self) -> None:
        async with self.client() as raw:
            await raw.replicaof("NO", "ONE")
            await raw.config_set("min-replicas-to-write", 0)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Pair:
    """Each takes writes only with a replica of its own. The replica gets what the primary writes by way of `link`."""

    primary: Node
    replica: Node
    link: Proxy


@pytest.fixture
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    started: list[Node] = []

    def start(*options: str) -> Node:
        folder, port = Path(tmp_path_factory.mktemp("n")), free_port()
        where = ["--port", f"{port}", "--bind", "127.0.0.1", "--dir", str(folder), "--logfile", str(folder / "log"), "--save", ""]
        safe = ["--appendonly", "yes", "--appendfsync", "always", "--min-replicas-to-write", "1", "--min-replicas-max-lag", f"{MAX_LAG_S}"]
        node = Node(subprocess.Popen([str(find_binary()), *where, *safe, *options]), port)
        started.append(node)
        return node

    try:
        primary = start("--repl-diskless-sync-delay", "0")
        await eventually(primary.answers, pause=0.02)
        async with proxy_to(f"http://127.0.0.1:{primary.port}") as link:
            replica = start("--replicaof", f"127.0.0.1 {link.port}")
            await eventually(primary.takes_writes, pause=0.02)
            yield Pair(primary, replica, link)
    finally:
        for node in started:
            node.kill()


def connected(node: Node) -> AbstractAsyncContextManager[RedisQueue]:
    return connect(Settings(redis_url=node.url))


def submission(key: str) -> Submission:
    return make_submission(make_request(tenant="alice"), key=key)


async def claim(queue: RedisQueue, worker: str, max_jobs: int) -> list[Claim]:
    return await queue.claim(
        worker=worker, nonce="n", models=["test-model"], lanes=list(Lane), max_jobs=max_jobs, max_tokens=10**6, lease_ms=60_000
    )


async def test_what_was_copied_survives_its_primary(pair: Pair) -> None:
    primary, replica = pair.primary, pair.replica
    async with connected(primary) as queue:
        accepted = [(await queue.accept(submission(f"key-{i}"))).job_id for i in range(50)]
        [running] = await claim(queue, "w", 1)
        job_id, epoch = running.request.id, running.epoch
        await queue.append([Append(job_id=job_id, epoch=epoch, start=0, token_ids=(7, 8), text="a")])
        assert await primary.copied()
        primary.kill()
        with pytest.raises(QueueUnavailable):
            await queue.accept(submission("later"))
    await replica.promote()
    async with connected(replica) as queue:
        jobs = await queue.get_many("alice", accepted)
        assert [job and job.request.id for job in jobs] == accepted
        assert (await queue.accept(submission("key-0"))).job_id == accepted[0]
        # Its worker goes on: lease, epoch and count have come along.
        verdicts = await queue.append([Append(job_id=job_id, epoch=epoch, start=2, token_ids=(9,), text="b")])
        assert verdicts == [Verdict.OK]
        assert await queue.finish([Finish(job_id=job_id, epoch=epoch, committed=3, state=State.DONE, reason="stop")]) == [Verdict.OK]
        log = await queue.read_log("alice", job_id, START, 10)
        assert [(entry.token_ids, entry.end) for entry in log] == [((7, 8), None), ((9,), None), ((), State.DONE)]
        assert len(await claim(queue, "w2", 100)) == len(accepted) - 1


async def test_what_was_not_copied_is_unknown_and_its_repeat_is_a_job(pair: Pair) -> None:
    """A copy is not waited for: a replica that falls behind is noticed after its lag, and what is accepted until then may be lost."""
    async with connected(pair.primary) as queue:
        kept = (await queue.accept(submission("kept"))).job_id
        assert await pair.primary.copied()
        pair.link.silent = True
        lost = (await queue.accept(submission("lost"))).job_id

        async def refused() -> bool:
            try:
                await queue.accept(submission("too late"))
            except QueueUnavailable:
                return True
            return False

        await eventually(refused, pause=0.05)
        pair.primary.kill()
    await pair.replica.promote()
    async with connected(pair.replica) as queue:
        assert (await queue.get("alice", kept)).state is State.QUEUED
        with pytest.raises(JobNotFound):
            await queue.get("alice", lost)
        again = await queue.accept(submission("lost"))
        assert not again.replayed
        assert len(await claim(queue, "w", 100)) == 2
