"""Filling a state store that is new, or that was lost and made anew, from the log.

    results: what has ended is known again → begin a generation → accepted, requests: what has not ended is admitted → all is here

The results come first, so nothing that has ended runs again; epochs of a new generation are above all earlier ones, so a cursor from before
is told from a newer one. All steps may be repeated: who dies on the way leaves it to the next.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import orjson

from headrace.cursor import MAX_GENERATION
from headrace.ids import is_in_shards
from headrace.kafka.log_record import LogRecord
from headrace.kafka.result import generation_in, generation_record
from headrace.kafka.topics import Topics
from headrace.outbox_ports import Recovery
from headrace.ports import Intake
from scheduler.kafka.log_ports import Archive, Sink

LEASE_MS = 30_000
_MINUTE_MS = 60_000

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Recovered:
    """What the log held."""

    ended: int = 0
    admitted: int = 0
    known: int = 0
    """They had ended, or the store had them already."""
    others: int = 0
    """Told to be refused, or put among the dead letters, once more."""


def next_generation(last: int, now_ms: int) -> int:
    """Above `last`, the latest that the log knows of; and above those that it has forgotten, by the clock, in minutes."""
    return min(max(last + 1, now_ms // _MINUTE_MS), MAX_GENERATION)


class Rebuilder:
    """`take` works on a record as the pump does and says what became of it."""

    def __init__(
        self,
        archive: Archive,
        sink: Sink,
        recovery: Recovery,
        intake: Intake,
        *,
        topics: Topics,
        shards: int,
        keep_ms: int,
        owner: str,
        take: Callable[[LogRecord], Awaitable[str]],
        now_ms: Callable[[], int],
    ) -> None:
        self._archive = archive
        self._sink = sink
        self._recovery = recovery
        self._intake = intake
        self._topics = topics
        self._shards = shards
        self._keep_ms = keep_ms
        self._owner = owner
        self._take = take
        self._now_ms = now_ms

    async def needed(self) -> bool:
        """Raises QueueUnavailable."""
        return not await self._recovery.recovered()

    async def run(self) -> Recovered | None:
        """None: somebody else is at it. Raises QueueUnavailable, LogUnavailable, and then has to be run again."""
        if not await self._hold():
            return None
        logger.info("the state store is new, or was lost: it is filled from the log, which is not read any further meanwhile")
        found, last = Recovered(), await self._intake.generation()
        # As far back as they go: what has ended must be known of every request that the log still has.
        async for batch in self._held(self._archive.read(self._topics.results)):
            found.ended += await self._recovery.entomb([end for record in batch if (end := self._end(record)) is not None])
            last = max([last, *(generation_in(record) for record in batch)])
        generation = next_generation(last, self._now_ms())
        # The log first: whoever fills the next store must know of this generation before anybody has a cursor of it.
        marker = generation_record(generation)
        await self._sink.append(self._topics.results, marker.key, marker.value, marker.headers)
        await self._intake.begin_generation(generation)
        since_ms = max(0, self._now_ms() - self._keep_ms)
        for topic in (self._topics.accepted, self._topics.requests):
            async for batch in self._held(self._archive.read(topic, since_ms=since_ms)):
                await self._take_all(batch, found)
        await self._recovery.end_recovery()
        logger.info(
            "the state store has what the log held: generation=%d ended=%d admitted=%d known=%d others=%d",
            *(generation, found.ended, found.admitted, found.known, found.others),
        )
        return found

    async def _take_all(self, batch: list[LogRecord], found: Recovered) -> None:
        """However long it takes: a full queue has the records wait."""
        work = asyncio.gather(*(self._take(record) for record in batch))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=LEASE_MS / 3_000)
                await self._hold()
        finally:
            work.cancel()
        for outcome in work.result():
            found.admitted += outcome == "admitted"
            found.known += outcome == "known"
            found.others += outcome not in ("admitted", "known")

    async def _held(self, batches: AsyncIterator[list[LogRecord]]) -> AsyncIterator[list[LogRecord]]:
        async for batch in batches:
            await self._hold()
            yield batch

    async def _hold(self) -> bool:
        return await self._recovery.recover(owner=self._owner, lease_ms=LEASE_MS)

    def _end(self, record: LogRecord) -> tuple[str, str] | None:
        """Job and tenant of a terminal record; None for what somebody else has written there."""
        job_id = (record.key or b"").decode("ascii", "replace")
        if not is_in_shards(job_id, self._shards):
            return None
        try:
            tenant = orjson.loads(record.value or b"")["tenant"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None
        return (job_id, tenant) if isinstance(tenant, str) else None
