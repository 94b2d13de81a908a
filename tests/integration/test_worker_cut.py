"""A worker whose wire to the store goes dead under it, for longer than its lease and for less."""

from collections.abc import AsyncIterator
from urllib.parse import unquote, urlsplit

import pytest

from headrace.cursor import START
from headrace.queues.redis import RedisQueue
from headrace.request import Request
from headrace.state import State
from headrace.testing.builders import make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.proxy import Proxy, proxy_to
from headrace.testing.store import Store
from tests.at_work import ended, has_committed, log_of, tokens_of, working
from workers.backends.scripted import ScriptedEngine, answer_to

ENDLESS = 10**6
REPLY_S = 0.2
"""After which a call on the dead wire is given up."""


class Gauged(ScriptedEngine):
    """Shows how far it has computed."""

    def computed(self, request: Request) -> int | None:
        """None: it holds nothing of that request."""
        return next((run.position for run in self._runs.values() if run.request.prompt_ids == request.prompt_ids), None)


@pytest.fixture
async def wire(valkey: Store) -> AsyncIterator[Proxy]:
    async with proxy_to(unquote(urlsplit(valkey.url).path)) as proxy:
        yield proxy


@pytest.fixture
async def behind(wire: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisQueue]:
    """The same store at the other end of the wire."""
    monkeypatch.setattr("headrace.queues.server.REPLY_S", REPLY_S)
    queue = await RedisQueue.connect(f"redis://127.0.0.1:{wire.port}/0")
    yield queue
    await queue.aclose()


async def submit(queue: RedisQueue, prompt: int, max_tokens: int = ENDLESS) -> Request:
    request = make_request(prompt_ids=(prompt,), max_tokens=max_tokens)
    await queue.accept(make_submission(request))
    return request


async def test_for_longer_than_its_lease_it_is_fenced_and_works_on(queue: RedisQueue, wire: Proxy, behind: RedisQueue) -> None:
    lost, mine, other = Gauged(), Gauged(max_running=1), await submit(queue, 1)
    async with working(behind, lost, "lost", lease=1.0):
        await eventually(lambda: has_committed(queue, other, 5))
        wire.silent = True

        async def lapsed() -> bool:
            return await queue.reap_expired(10) == 1

        await eventually(lapsed, pause=0.02)
        left_at = (await queue.get("default", other.id)).committed
        assert (lost.computed(other) or 0) - left_at <= 2, "it computes no further than the step whose tokens it cannot write, and one more"
        async with working(queue, mine, "mine"):  # has no room for anything else
            await eventually(lambda: has_committed(queue, other, left_at + 5))
            wire.silent = False
            later = await submit(queue, 2, max_tokens=20)
            assert (await ended(queue, later)).state is State.DONE
            assert lost.computed(other) is None
            await queue.cancel("default", other.id)
            job = await ended(queue, other)
    assert tokens_of(await log_of(queue, later)) == answer_to(later.prompt_ids, 20)
    log = await queue.read_log("default", other.id, START, ENDLESS)
    assert tokens_of(log) == answer_to(other.prompt_ids, job.committed)
    assert {entry.position.epoch for entry in log if entry.position.n <= left_at} == {1}
    assert {entry.position.epoch for entry in log if entry.position.n > left_at} == {3}


async def test_for_less_it_repeats_its_appends_and_keeps_its_jobs(queue: RedisQueue, wire: Proxy, behind: RedisQueue) -> None:
    request = await submit(queue, 1)
    async with working(behind, ScriptedEngine(), lease=60.0):
        await eventually(lambda: has_committed(queue, request, 5))
        wire.silent = True
        await eventually(lambda: _true(wire.swallowed >= 3), pause=0.01)
        wire.silent, wire.drop_replies = False, True
        await eventually(lambda: _true(wire.dropped >= 3), pause=0.01)
        assert await queue.reap_expired(10) == 0
        wire.drop_replies = False
        committed = (await queue.get("default", request.id)).committed
        await eventually(lambda: has_committed(queue, request, committed + 5))
        await queue.cancel("default", request.id)
        job = await ended(queue, request)
    assert (job.state, job.epoch, job.crashes) == (State.CANCELLED, 1, 0)
    assert tokens_of(await queue.read_log("default", request.id, START, ENDLESS)) == answer_to(request.prompt_ids, job.committed)


async def _true(condition: bool) -> bool:
    return condition
