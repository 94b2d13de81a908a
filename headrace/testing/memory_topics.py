"""Topics in memory, for batches that are fed from one and answered to another."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from headrace.batch import Bounds, Span
from headrace.errors import LogUnavailable, RangeGone, RequestTooLarge
from headrace.kafka.log_record import UNREADABLE, LogRecord
from headrace.kafka.window import Partition

_PAGE = 2
"""Records that come at once."""


def record(topic: str, partition: int, offset: int, value: bytes | None, *, unreadable: str | None = None) -> LogRecord:
    headers = () if unreadable is None else ((UNREADABLE, unreadable.encode()),)
    return LogRecord(partition=Partition(topic, partition), offset=offset, timestamp_ms=0, key=None, value=value, headers=headers)


@dataclass(frozen=True, slots=True)
class Told:
    """A record that was written."""

    key: bytes | None
    value: bytes
    headers: Mapping[str, str]


@dataclass
class MemoryTopics:
    """Implements BatchTopics for the tenants of `granted`, and TopicLog. The first record of a partition has the offset `first`."""

    topics: dict[str, list[list[LogRecord]]] = field(default_factory=dict)
    granted: frozenset[tuple[str, str]] = frozenset()
    first: int = 0
    down: bool = False
    waited: Callable[[], Awaitable[object]] | None = None
    """What passes until somebody knows that it is down."""
    asked: int = 0
    """How often it was read from, or was to be."""
    largest: int = 1 << 20
    told: dict[str, list[Told]] = field(default_factory=dict)
    """Of each topic that exists to be written to."""

    def fill(self, topic: str, *partitions: Sequence[bytes | None]) -> None:
        self.topics[topic] = [
            [record(topic, number, self.first + index, value) for index, value in enumerate(values)]
            for number, values in enumerate(partitions)
        ]

    def allows(self, tenant: str, topic: str) -> bool:
        return (tenant, topic) in self.granted

    async def bounds(self, topic: str) -> Mapping[int, Bounds]:
        self._check()
        if topic in self.told:
            return {0: Bounds(0, len(self.told[topic]))}
        return {number: Bounds(self.first, self.first + len(one)) for number, one in enumerate(self.topics.get(topic, []))}

    async def read(self, topic: str, span: Span) -> AsyncGenerator[list[LogRecord], None]:
        self.asked += 1
        await self.find()
        there = self.topics[topic][span.partition]
        if there and there[0].offset > span.start:
            raise RangeGone(f"{topic}/{span.partition}: the offsets {span.start} to {there[0].offset - 1} are deleted.")
        wanted = [one for one in there if span.start <= one.offset < span.end]
        for at in range(0, len(wanted), _PAGE):
            yield wanted[at : at + _PAGE]

    @asynccontextmanager
    async def writing(self, topic: str) -> AsyncIterator["_Sink"]:
        yield _Sink(self)

    async def find(self) -> None:
        """Raises LogUnavailable while it is down."""
        if self.down and self.waited is not None:
            await self.waited()
        self._check()

    def _check(self) -> None:
        if self.down:
            raise LogUnavailable("it is away")

    def take(self, topic: str, told: Told) -> None:
        self._check()
        if topic not in self.told:
            raise LogUnavailable(f"it has no topic {topic}")
        if len(told.value) > self.largest:
            raise RequestTooLarge("too large")
        self.told[topic].append(told)


@dataclass(frozen=True, slots=True)
class _Sink:
    topics: MemoryTopics

    async def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        await self.topics.find()
        self.topics.take(topic, Told(key, value or b"", {name: what.decode() for name, what in headers}))
