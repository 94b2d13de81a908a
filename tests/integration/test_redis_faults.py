"""The queue on a real server: lost replies, a killed server, lost functions, no memory, no writes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import uvloop
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from headrace.cursor import START
from headrace.embedded import EmbeddedValkey
from headrace.errors import HeadraceError, QueueFull, QueueUnavailable, SettingsError
from headrace.ports import Append, Finish, Held, Submission, Verdict
from headrace.queues import doorbell
from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits
from headrace.queues.shards import read_library
from headrace.request import Lane
from headrace.state import TERMINAL, State
from headrace.testing.bench import RedisBench
from headrace.testing.builders import make_request, make_status, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.proxy import Proxy, proxy_to

P = "headrace:{00}:"
MODEL = "test-model"
STATUS = make_status()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A server of this test alone."""
    server = EmbeddedValkey(Path(tmp_path_factory.mktemp("v")))
    server.start()
    yield server
    server.stop()


def socket_of(server: EmbeddedValkey) -> str:
    return unquote(urlsplit(server.url).path)


@pytest.fixture
async def queue(server: EmbeddedValkey) -> AsyncIterator[RedisQueue]:
    async with aclosing(await RedisQueue.connect(server.url)) as queue:
        yield queue


@pytest.fixture
async def raw(server: EmbeddedValkey) -> AsyncIterator[Any]:
    client = Redis.from_url(server.url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
async def proxy(server: EmbeddedValkey) -> AsyncIterator[Proxy]:
    async with proxy_to(socket_of(server)) as proxy:
        yield proxy


@pytest.fixture
async def lossy(proxy: Proxy) -> AsyncIterator[RedisQueue]:
    """The same store through the proxy."""
    async with aclosing(await RedisQueue.connect(f"redis://127.0.0.1:{proxy.port}/0")) as queue:
        yield queue


def submission() -> Submission:
    return make_submission(make_request(tenant="alice"))


async def claim(queue: RedisQueue, nonce: str = "n", worker: str = "w") -> list[tuple[str, int]]:
    claims = await queue.claim(
        worker=worker, nonce=nonce, models=[MODEL], lanes=list(Lane), max_jobs=100, max_tokens=10**6, lease_ms=60_000
    )
    return [(one.request.id, one.epoch) for one in claims]


async def running(queue: RedisQueue, worker: str = "w") -> str:
    """A job leased at epoch 1."""
    accepted = await queue.accept(submission())
    await claim(queue, nonce=accepted.job_id, worker=worker)
    return accepted.job_id


def append(job_id: str, start: int = 0, text: str = "x") -> Append:
    return Append(job_id=job_id, epoch=1, start=start, token_ids=(start,), text=text)


def finish(job_id: str, committed: int = 0) -> Finish:
    return Finish(job_id=job_id, epoch=1, committed=committed, state=State.DONE, reason="stop")


async def insist(proxy: Proxy, call: Callable[[], Awaitable[Any]]) -> Any:
    """The reply is lost; the caller repeats the call."""
    proxy.drop_replies = True
    with pytest.raises(QueueUnavailable):
        await call()
    assert proxy.dropped == 1  # sent once, and not again behind the caller's back
    proxy.drop_replies = False
    return await call()


class TestLostReplies:
    async def test_accept(self, proxy: Proxy, lossy: RedisQueue, raw: Any) -> None:
        one = submission()
        accepted = await insist(proxy, lambda: lossy.accept(one))
        assert (accepted.job_id, accepted.replayed) == (one.request.id, True)
        assert await raw.hget(P + "counters", "live") == "1"
        assert await raw.zcard(P + "jobs:alice") == 1

    async def test_claim(self, proxy: Proxy, lossy: RedisQueue) -> None:
        await lossy.accept(submission())
        (taken,) = await insist(proxy, lambda: claim(lossy))
        assert taken[1] == 1

    async def test_append(self, proxy: Proxy, lossy: RedisQueue, raw: Any) -> None:
        job_id = await running(lossy)
        assert await insist(proxy, lambda: lossy.append([append(job_id)])) == [Verdict.OK]
        assert await raw.xlen(f"{P}log:{job_id}") == 1

    async def test_finish(self, proxy: Proxy, lossy: RedisQueue, raw: Any) -> None:
        job_id = await running(lossy)
        assert await insist(proxy, lambda: lossy.finish([finish(job_id)])) == [Verdict.OK]
        assert (await raw.xlen(f"{P}log:{job_id}"), await raw.xlen(P + "outbox")) == (1, 1)
        assert await raw.hget(P + "counters", "live") == "0"

    async def test_release(self, proxy: Proxy, lossy: RedisQueue) -> None:
        job_id = await running(lossy)
        assert await insist(proxy, lambda: lossy.release([Held(job_id, 1)], 0)) == [Verdict.OK]
        assert (await lossy.get("alice", job_id)).epoch == 2


class TestServerLoss:
    async def test_nothing_acknowledged_is_lost_by_kill_9(self, server: EmbeddedValkey, queue: RedisQueue) -> None:
        acknowledged: list[str] = []
        appended = 0
        job_id = await running(queue)

        async def submit_until_cut() -> None:
            while True:
                acknowledged.append((await queue.accept(submission())).job_id)

        async def append_until_cut() -> None:
            nonlocal appended
            while True:
                await queue.append([append(job_id, appended)])
                appended += 1

        writers = [asyncio.create_task(submit_until_cut()) for _ in range(8)] + [asyncio.create_task(append_until_cut())]
        await eventually(lambda: asyncio.sleep(0, len(acknowledged) > 200))
        server.process.kill()
        ends = await asyncio.gather(*writers, return_exceptions=True)
        assert all(isinstance(end, QueueUnavailable) for end in ends), ends
        server.process.wait()
        server.start()

        assert {(await queue.get("alice", one)).state for one in acknowledged} == {State.QUEUED}
        log = await queue.read_log("alice", job_id, START, 10**6)
        tokens = [token for entry in log for token in entry.token_ids]
        assert tokens == list(range(len(tokens)))
        assert appended <= len(tokens) <= appended + 1
        assert await queue.append([append(job_id, appended)]) == [Verdict.OK]

    async def test_without_a_server_every_call_says_so(self, server: EmbeddedValkey, queue: RedisQueue) -> None:
        job_id = await running(queue)
        server.stop()
        for call in (
            lambda: queue.ping(),
            lambda: queue.accept(submission()),
            lambda: queue.get("alice", job_id),
            lambda: queue.load(),
            lambda: queue.read_logs([(job_id, START)], 1),
            lambda: queue.renew([Held(job_id, 1)], 1_000),
            lambda: queue.reap_expired(1),
            lambda: queue.log_doorbell().__aenter__(),
            lambda: RedisQueue.connect(server.url),
        ):
            with pytest.raises(QueueUnavailable):
                await call()

    async def test_lost_functions_are_loaded_again(self, queue: RedisQueue, raw: Any) -> None:
        job_id = await running(queue)
        await raw.function_flush()
        assert await queue.append([append(job_id)]) == [Verdict.OK]
        await raw.function_flush()
        log, load = await queue.read_log("alice", job_id, START, 10), await queue.load()
        assert (len(log), load.running) == (1, 1)

    async def test_another_text_of_the_library_is_replaced(self, server: EmbeddedValkey, queue: RedisQueue, raw: Any) -> None:
        name = "headrace_1"
        await raw.function_load(f"#!lua name={name}\nredis.register_function('{name}_ping', function() return 0 end)", replace=True)
        async with aclosing(await RedisQueue.connect(server.url)) as other:
            await other.accept(submission())

    async def test_an_older_text_is_replaced_once_a_function_is_missed(self, queue: RedisQueue, raw: Any) -> None:
        """An old process that starts anew loads its own text over the one in use."""
        job_id = await running(queue)
        await queue.finish([finish(job_id)])
        text, without = read_library().text, "register('forget', forget, 'allow-oom')"
        assert text.count(without) == 1
        await raw.function_load(text.replace(without, ""), replace=True)
        await queue.forget([job_id])
        assert await queue.states([job_id]) == [None]

    async def test_another_library_is_left_alone(self, queue: RedisQueue, raw: Any) -> None:
        await raw.function_load("#!lua name=other\nredis.register_function('other_one', function() return 1 end)")
        await raw.function_delete("headrace_1")
        await queue.accept(submission())
        assert await raw.fcall("other_one", 0) == 1

    async def test_doorbells_survive_a_restart(self, server: EmbeddedValkey, queue: RedisQueue, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        async with queue.log_doorbell() as bell:
            server.process.kill()
            server.process.wait()
            server.start()

            async def rung() -> bool:
                with suppress(QueueUnavailable):  # a pooled connection may still be one to the old process
                    job_id = (await queue.accept(submission())).job_id
                    await queue.cancel("alice", job_id)
                return bool(await bell.wait(0.05))

            await eventually(rung)
        assert [record.levelname for record in caplog.records if record.name == doorbell.__name__] == ["WARNING", "INFO"]

    async def test_a_doorbell_notices_a_dead_peer(
        self, proxy: Proxy, lossy: RedisQueue, queue: RedisQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(doorbell, "PING_S", 0.02)
        monkeypatch.setattr(doorbell, "SUBSCRIBE_S", 0.2)
        async with lossy.log_doorbell() as bell:
            before = proxy.accepted
            proxy.silent = True
            await eventually(lambda: asyncio.sleep(0, proxy.accepted > before))
            proxy.silent = False

            async def rung() -> bool:
                await queue.cancel("alice", (await queue.accept(submission())).job_id)
                return bool(await bell.wait(0.05))

            await eventually(rung)


class TestLostJustBeforeAWrite:
    """On the API's event loop, which has an error of its own for that."""

    @pytest.fixture(autouse=True)
    def cut(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
        """A connection is cut between redis-py's look at it and its write, as often as there are elements."""
        send, cuts = AbstractConnection.send_packed_command, list[bool]()

        async def cut_and_send(self: AbstractConnection, *arguments: Any, **options: Any) -> None:
            if cuts and self._writer is not None:
                cuts.pop()
                transport = self._writer.transport
                transport.abort()
                await eventually(lambda: asyncio.sleep(0, "closed=True" in repr(transport)))
            await send(self, *arguments, **options)

        monkeypatch.setattr(AbstractConnection, "send_packed_command", cut_and_send)
        yield cuts
        assert not cuts

    def test_a_call_says_so_and_the_next_one_works(self, server: EmbeddedValkey, cut: list[bool]) -> None:
        async def scenario() -> None:
            async with aclosing(await RedisQueue.connect(server.url)) as queue:
                cut.append(True)
                with pytest.raises(QueueUnavailable):
                    await queue.load()
                await queue.load()

        uvloop.run(scenario())

    def test_a_doorbell_subscribes_again(self, server: EmbeddedValkey, cut: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doorbell, "PING_S", 0.05)

        async def scenario() -> None:
            async with aclosing(await RedisQueue.connect(server.url)) as queue, queue.log_doorbell() as bell:
                cut.append(True)  # its next ping
                await eventually(lambda: asyncio.sleep(0, not cut), pause=0.01)

                async def rung() -> bool:
                    await queue.cancel("alice", (await queue.accept(make_submission(make_request(tenant="alice")))).job_id)
                    return bool(await bell.wait(0.1))

                await eventually(rung)

        uvloop.run(scenario())


class TestRefusedWrites:
    async def test_without_memory_old_work_ends_and_new_work_waits(self, queue: RedisQueue, raw: Any) -> None:
        done, given, reaped, waiting = [await running(queue, worker) for worker in ("w", "w", "dead", "w")]
        await raw.config_set("maxmemory", 1)
        with pytest.raises(QueueFull, match="memory limit"):
            await queue.accept(submission())
        with pytest.raises(QueueFull):
            await queue.ping()
        assert await queue.append([append(done), append(waiting)]) == [Verdict.OK, Verdict.OK]
        assert await queue.renew([Held(done, 1)], 1_000) == [Verdict.OK]
        assert await queue.finish([finish(done, 1)]) == [Verdict.OK]
        assert await queue.release([Held(given, 1)], 0) == [Verdict.OK]
        assert await queue.reap_worker("dead") == [reaped]
        assert {job_id for job_id, _ in await claim(queue, "again")} == {given, reaped}
        assert await queue.cancel("alice", waiting) is State.RUNNING
        await queue.report(STATUS, 1_000)
        await queue.attend([waiting])
        for sweep in (queue.reap_expired, queue.promote, queue.expire, queue.cancel_unattended, queue.purge):
            assert await sweep(10) == 0
        assert (await queue.get("alice", done)).state in TERMINAL
        await queue.forget([done])
        assert await queue.states([done, given]) == [None, State.RUNNING]
        await raw.config_set("maxmemory", 0)
        await queue.accept(submission())

    async def test_a_request_of_an_unknown_version_is_left_alone(self, queue: RedisQueue, raw: Any) -> None:
        new, known = submission(), submission()
        for one in (new, known):
            await queue.accept(one)
        body = await raw.get(f"headrace:{{00}}:body:{new.request.id}")
        await raw.set(f"headrace:{{00}}:body:{new.request.id}", body.replace('"v":1', '"v":3'))
        assert [job_id for job_id, _ in await claim(queue)] == [known.request.id]
        await raw.set(f"headrace:{{00}}:body:{new.request.id}", body)
        assert (await queue.get(new.request.tenant, new.request.id)).state is State.DELAYED

    async def test_a_replica_takes_no_writes(self, queue: RedisQueue, raw: Any) -> None:
        job_id = await running(queue)
        await raw.execute_command("REPLICAOF", "127.0.0.1", "1")
        for call in (lambda: queue.accept(submission()), lambda: queue.append([append(job_id)]), queue.ping):
            with pytest.raises(QueueUnavailable):
                await call()
        await raw.execute_command("REPLICAOF", "NO", "ONE")
        assert await queue.append([append(job_id)]) == [Verdict.OK]

    async def test_too_few_replicas(self, queue: RedisQueue, raw: Any) -> None:
        await raw.config_set("min-replicas-to-write", 1)
        with pytest.raises(QueueUnavailable):
            await queue.accept(submission())

    async def test_a_wrong_password_is_said_and_not_told(self, server: EmbeddedValkey, raw: Any) -> None:
        await raw.config_set("requirepass", "right")
        with pytest.raises(QueueUnavailable, match=r"WRONGPASS|invalid") as refused:
            await RedisQueue.connect(server.url.replace("unix://", "unix://user:secret@"))
        assert "secret" not in str(refused.value)

    async def test_permissions_taken_away_are_an_outage_until_they_are_back(self, queue: RedisQueue, raw: Any) -> None:
        job_id = await running(queue)
        await raw.acl_setuser("default", commands=["-fcall"])
        for call in (lambda: queue.accept(submission()), lambda: queue.append([append(job_id)]), queue.ping):
            with pytest.raises(QueueUnavailable):
                await call()
        await raw.acl_setuser("default", commands=["+fcall"])
        assert await queue.append([append(job_id)]) == [Verdict.OK]

    @pytest.mark.parametrize("url", ["http://:secret@host", "redis://:secret@host:port/0", "redis://:secret@host/0?db=x", ""])
    async def test_a_bad_url_is_a_settings_error(self, url: str) -> None:
        with pytest.raises(SettingsError, match="HEADRACE_REDIS_URL") as refused:
            await RedisQueue.connect(url)
        assert "secret" not in str(refused.value)

    async def test_a_fault_of_the_functions_is_not_called_an_outage(self, queue: RedisQueue, raw: Any) -> None:
        await raw.set(P + "counters", "not a hash")
        with pytest.raises(Exception, match="WRONGTYPE") as fault:
            await queue.accept(submission())
        assert not isinstance(fault.value, HeadraceError)


async def test_tombstones_and_nonces_pass(server: EmbeddedValkey) -> None:
    bench = await RedisBench.connect(server.url, QueueLimits(retention_ms=50_000))
    job_id = await bench.submit(ttl_ms=30_000)
    await bench.claim("w", nonce="n", lease_ms=5_000)
    await bench.finish(job_id, 1, 0)
    await bench.advance(50_000)
    assert await bench.queue.purge(10) == 1
    assert 0 < await bench.raw.pttl(f"{P}gone:{job_id}") <= 50_000
    assert 50_000 < await bench.raw.pttl(f"{P}claim:1:w:n") <= 65_000
    left = {key.removeprefix(P) for key in await bench.raw.keys(P + "*")}
    assert left == {"counters", "depth", f"gone:{job_id}", "claim:1:w:n", "outbox"}, "a purged job leaves nothing behind"
    await bench.aclose()
