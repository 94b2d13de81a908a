"""Whose tokens are told, with many who ask for them and few that have any."""

from headrace.ids import new_job_id
from headrace.queues.outbox import RedisOutbox
from headrace.queues.redis import RedisQueue
from headrace.testing.builders import make_request, make_submission
from headrace.testing.store import Store
from scheduler.kafka.relay import _ASKED

# More than fit a page, and than a server keeps in one piece, which it would show whole.
MANY = 3 * _ASKED


async def test_everybody_who_asks_has_a_turn(valkey: Store) -> None:
    outbox = await RedisOutbox.connect(valkey.url)
    try:
        ids = [new_job_id(0, i) for i in range(MANY)]
        for one in ids:
            await outbox.ask(one)
        seen: list[str] = []
        cursor, pages = 0, 0
        while pages == 0 or cursor:
            page = await outbox.asked(0, owner="o", lease_ms=1_000, limit=_ASKED, cursor=cursor)
            assert page is not None
            assert len(page.jobs) < MANY
            seen += [one.job_id for one in page.jobs]
            cursor, pages = page.cursor, pages + 1
        assert set(seen) == set(ids)
        assert pages > 1
    finally:
        await outbox.aclose()


async def test_whose_tokens_are_all_told_asks_no_more(valkey: Store, queue: RedisQueue) -> None:
    outbox = await RedisOutbox.connect(valkey.url)
    try:
        submission = make_submission(make_request())
        await queue.accept(submission)
        await outbox.ask(submission.request.id)
        page = await outbox.asked(0, owner="o", lease_ms=1_000, limit=10, cursor=0)
        assert page is not None
        assert [one.job_id for one in page.jobs] == [submission.request.id]
        assert await outbox.asked(0, owner="another", lease_ms=1_000, limit=10, cursor=0) is None
        await outbox.told(0, [(submission.request.id, None)])
        page = await outbox.asked(0, owner="o", lease_ms=1_000, limit=10, cursor=0)
        assert page is not None
        assert page.jobs == []
    finally:
        await outbox.aclose()
