"""The relay: what ended goes from the outbox to the results topic, and the tokens of those who want them to theirs.

    read what is behind the cursor → write it to the log → the log has it → move the cursor on

At least once, with the same bytes: a relay that dies between the last two writes them again. One relay works on a shard at a time, by a
lease; a second one would do no harm.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.cursor import START
from headrace.errors import LogUnavailable, ModelNotFound, ModelUnavailable, QueueUnavailable, RequestTooLarge
from headrace.job import Job, LogEntry
from headrace.kafka.result import Outgoing, ended_record, tokens_record, without_answer
from headrace.kafka.topics import Topics
from headrace.outbox_ports import Asked, Ended, Outbox
from headrace.ports import JobQueue
from headrace.request import Lane, Request
from headrace.wire.prompter import Prompters
from headrace.wire.spelling import Spelling
from scheduler.kafka.log_ports import Sink

LEASE_MS = 10_000
LOOK_S = 0.1
RETRY_S = 1.0
COUNT_S = 2.0
"""Between two looks how many ends wait."""
MOST_COUNTED = 1_000
_PAGE = 64
"""Answers rendered and written before the cursor moves on."""
_ASKED = 256
_ENTRIES = 1_000
_WHOLE_LOG = 1_000_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Moved:
    """What one look has brought to the log."""

    results: int = 0
    skipped: int = 0
    """Of jobs that are gone, and of lines of batches, whose files have them."""
    tokens: int = 0

    @property
    def any(self) -> bool:
        return bool(self.results or self.skipped or self.tokens)

    def __add__(self, other: "Moved") -> "Moved":
        return Moved(self.results + other.results, self.skipped + other.skipped, self.tokens + other.tokens)


class Relay:
    def __init__(
        self,
        outbox: Outbox,
        queue: JobQueue,
        sink: Sink,
        *,
        topics: Topics,
        prompters: Prompters,
        owner: str,
        moved: Callable[[Moved], None],
        behind: Callable[[int], None],
    ) -> None:
        """`owner` names this relay among all; `moved` is told of every look, `behind` how many ends wait, up to MOST_COUNTED a shard."""
        self._outbox = outbox
        self._queue = queue
        self._sink = sink
        self._topics = topics
        self._prompters = prompters
        self._owner = owner
        self._moved = moved
        self._behind = behind
        self._count_at = 0.0
        self._told = False
        self._cursors: dict[int, int] = {}
        """By shard, the page that is next of those who ask for tokens."""

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            pause = 0.0
            try:
                moved = await self.look()
                self._moved(moved)
                self._told = False
                pause = 0.0 if moved.any or any(self._cursors.values()) else LOOK_S
            except (QueueUnavailable, LogUnavailable, ModelUnavailable) as error:
                if not self._told:
                    logger.warning("results wait: %s", error)
                self._told = True
                pause = RETRY_S
            await self._count()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)

    async def _count(self) -> None:
        """In an outage of the log too: that is when they grow."""
        now = asyncio.get_running_loop().time()
        if now < self._count_at:
            return
        self._count_at = now + COUNT_S
        with contextlib.suppress(QueueUnavailable):
            self._behind(await self._outbox.waiting(MOST_COUNTED))

    async def look(self) -> Moved:
        """A page of every shard. Raises QueueUnavailable, LogUnavailable, ModelUnavailable: then it is looked at again."""
        moved = Moved()
        for shard in range(self._outbox.shards):
            moved += await self._relay_ends(shard)
            moved += await self._relay_tokens(shard)
        return moved

    async def _relay_ends(self, shard: int) -> Moved:
        page = await self._outbox.ended(shard, owner=self._owner, lease_ms=LEASE_MS, limit=_PAGE)
        if not page:
            return Moved()
        found = [one for one in page if _is_told(one)]
        records = [record for record in await self._records(found) if record is not None]
        await asyncio.gather(*(self._write_result(record) for record in records))
        await self._outbox.relayed(shard, page[-1].entry)
        return Moved(results=len(records), skipped=len(page) - len(records))

    async def _records(self, found: Sequence[Ended]) -> list[Outgoing | None]:
        """None of a job that is gone."""
        by_id: dict[str, Job] = {}
        for tenant in {one.tenant for one in found}:
            jobs = await self._queue.get_many(tenant, [one.job_id for one in found if one.tenant == tenant])
            by_id |= {job.request.id: job for job in jobs if job is not None}
        logs = await self._queue.read_logs([(one.job_id, START) for one in found], _WHOLE_LOG)
        whole = [(by_id.get(one.job_id), one, log) for one, log in zip(found, logs, strict=True)]
        return await asyncio.to_thread(lambda: [self._record(*one) for one in whole])

    def _record(self, job: Job | None, ended: Ended, log: Sequence[LogEntry]) -> Outgoing | None:
        if job is None or not log:
            return None
        return ended_record(job, ended.client_id, log, self._spelling(job.request), ended.traceparent)

    def _spelling(self, request: Request) -> Spelling | None:
        """None too where the model is served no more: an answer without its logprobs is better than none, and than none behind it."""
        try:
            return Spelling.of(request, self._prompters)
        except ModelNotFound:
            logger.warning("job %s is told without log-probabilities: its model is not served any more", request.id)
            return None

    async def _relay_tokens(self, shard: int) -> Moved:
        cursor = self._cursors.get(shard, 0)
        page = await self._outbox.asked(shard, owner=self._owner, lease_ms=LEASE_MS, limit=_ASKED, cursor=cursor)
        self._cursors[shard] = 0 if page is None else page.cursor
        if page is None or not page.jobs:
            return Moved()
        asked = page.jobs
        logs = await self._queue.read_logs([(one.job_id, one.position) for one in asked], _ENTRIES)
        states = await self._queue.states([one.job_id for one in asked])
        grown = [(one, log) for one, log in zip(asked, logs, strict=True) if log]
        gone = [one.job_id for one, state, log in zip(asked, states, logs, strict=True) if state is None and not log]
        await self._write(self._topics.tokens, [_token(one, entry) for one, log in grown for entry in log])
        if grown or gone:
            told = [(one.job_id, None if log[-1].end else log[-1].position) for one, log in grown]
            await self._outbox.told(shard, [*told, *((job_id, None) for job_id in gone)])
        return Moved(tokens=sum(len(log) for _, log in grown))

    async def _write_result(self, result: Outgoing) -> None:
        """Where the log takes less than it should, the answer is left out: one that is refused for ever would hold up all behind it."""
        try:
            await self._write(self._topics.results, [result])
        except RequestTooLarge:
            await self._write(self._topics.results, [without_answer(result)])

    async def _write(self, topic: str, records: Sequence[Outgoing]) -> None:
        await asyncio.gather(*(self._sink.append(topic, one.key, one.value, one.headers) for one in records))


def _is_told(one: Ended) -> bool:
    """Lines of batches are in the lane `batch` and have no key."""
    return one.lane is not None and (one.lane is not Lane.BATCH or one.has_key)


def _token(one: Asked, entry: LogEntry) -> Outgoing:
    return tokens_record(one.job_id, one.client_id or one.job_id, entry)
