"""Records that the client cannot decode, on a real broker: neither a member of a group nor who reads a topic whole is stopped."""

import asyncio
from typing import Any

import pytest

import headrace.kafka.consumer as consuming
from headrace.kafka.address import Address
from headrace.kafka.consumer import LogConsumer
from headrace.kafka.lenient import open_consumer
from headrace.kafka.log_record import LogRecord
from headrace.kafka.reader import LogReader
from headrace.kafka.topics import Shape, create
from headrace.testing.bad_records import write_around_a_bad_name, write_undecodable
from headrace.testing.kafka import KafkaSite
from headrace.testing.kafka_member import SESSION_MS


@pytest.fixture
def topic(kafka: KafkaSite) -> str:
    name = f"{kafka.prefix}.bad"
    create(Address(servers=tuple(kafka.servers.split(","))), [Shape(name=name, partitions=1, replicas=-1, configs={})])
    return name


@pytest.fixture
def member(kafka: KafkaSite, topic: str) -> LogConsumer:
    return LogConsumer({"bootstrap_servers": kafka.servers.split(",")}, topics=[topic], group=topic, session_ms=SESSION_MS)


async def read(member: LogConsumer, count: int) -> list[LogRecord]:
    found: list[LogRecord] = []
    async with asyncio.timeout(60), member:
        while len(found) < count:
            batch = await member.batch()
            for record in batch:
                member.done(record)
            found += batch
    return found


def fill(kafka: KafkaSite, topic: str) -> None:
    write_around_a_bad_name(kafka.servers, topic, [b"a", b"b", b"c"], bad=1)
    write_undecodable(kafka.servers, topic, 3)
    write_around_a_bad_name(kafka.servers, topic, [b"d", b"e"], bad=0)


def told(records: list[LogRecord]) -> list[tuple[int, bytes | None, bool]]:
    return [(record.offset, record.value, record.flaw is not None) for record in records]


EXPECTED = [(0, b"a", False), (1, b"b", True), (2, b"c", False), (3, None, True), (6, b"d", True), (7, b"e", False)]


async def test_a_member_reads_what_stands_around_them(kafka: KafkaSite, topic: str, member: LogConsumer) -> None:
    fill(kafka, topic)
    found = await read(member, len(EXPECTED))
    assert told(found) == EXPECTED
    assert found[1].flaw == "The name of the header 'tr??ace' is not UTF-8."
    assert (found[3].flaw or "").startswith("The offsets 3 to 5 cannot be decoded: BadGzipFile")


async def test_a_topic_is_read_to_its_end(kafka: KafkaSite, topic: str) -> None:
    fill(kafka, topic)
    reader = LogReader({"bootstrap_servers": kafka.servers.split(",")})
    assert told([record async for batch in reader.read(topic) for record in batch]) == EXPECTED


async def test_one_at_the_very_end_is_committed_once(kafka: KafkaSite, topic: str, member: LogConsumer) -> None:
    write_undecodable(kafka.servers, topic, 3)
    assert told(await read(member, 1)) == [(0, None, True)]
    write_around_a_bad_name(kafka.servers, topic, [b"next"], bad=-1)
    again = LogConsumer({"bootstrap_servers": kafka.servers.split(",")}, topics=[topic], group=topic, session_ms=SESSION_MS)
    assert told(await read(again, 1)) == [(3, b"next", False)]


class Breaking:
    """A consumer whose first poll raises what nobody has thought of."""

    def __init__(self, consumer: Any, opened: list[Any]) -> None:
        self._consumer = consumer
        self._breaks = not opened

    def poll(self, **options: Any) -> Any:
        if self._breaks:
            raise RuntimeError("nobody has thought of this")
        return self._consumer.poll(**options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The consumers that were opened; the first one breaks."""
    opened: list[Any] = []

    def open_breaking(**options: Any) -> Any:
        consumer = Breaking(open_consumer(**options), opened)
        opened.append(consumer)
        return consumer

    monkeypatch.setattr(consuming, "open_consumer", open_breaking)
    return opened


async def test_reading_begins_anew_whatever_was_raised(
    kafka: KafkaSite, topic: str, member: LogConsumer, opened: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    write_around_a_bad_name(kafka.servers, topic, [b"a"], bad=-1)
    assert told(await read(member, 1)) == [(0, b"a", False)]
    assert len(opened) == 2
    assert [record.message for record in caplog.records if "begins anew" in record.message] == [
        "reading the log begins anew: RuntimeError: nobody has thought of this"
    ]
