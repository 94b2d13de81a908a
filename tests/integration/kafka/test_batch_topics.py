"""The topics of batches on a real broker: where they end, what a range of them holds, and what is said of one that is not there."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import headrace.kafka.range_reader as reading
from headrace.batch import Bounds, Span
from headrace.errors import LogUnavailable, RangeGone
from headrace.kafka.batch_topics import KafkaBatchTopics
from headrace.kafka.log_record import LogRecord
from headrace.testing.bad_records import write_around_a_bad_name, write_undecodable
from headrace.testing.kafka import KafkaSite, read_all, tansu
from headrace.testing.own_topics import address_of_site, delete_before, make_topic, write
from headrace.testing.serving import serving

STOP_S = 5.0
"""What a process has that is told to stop."""


@pytest.fixture
def topics(kafka: KafkaSite) -> KafkaBatchTopics:
    return KafkaBatchTopics.of(kafka.settings(kafka_batch_topics=f"default={kafka.prefix}*"), address_of_site(kafka))


async def read(topics: KafkaBatchTopics, topic: str, start: int, end: int, partition: int = 0) -> list[LogRecord]:
    span = Span(partition=partition, start=start, end=end)
    return [record async for records in topics.read(topic, span) for record in records]


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def test_it_ends_behind_the_last_record(kafka: KafkaSite, topics: KafkaBatchTopics) -> None:
    topic = make_topic(kafka, "in", 3)
    write(kafka, topic, numbers(10))
    write(kafka, topic, numbers(7), partition=2, at_once=False)
    write(kafka, topic, numbers(5), partition=2)
    assert await topics.bounds(topic) == {0: Bounds(0, 10), 1: Bounds(0, 0), 2: Bounds(0, 12)}


async def test_one_that_is_not_there_is_not_made(kafka: KafkaSite, topics: KafkaBatchTopics) -> None:
    for _ in range(2):
        assert await topics.bounds(f"{kafka.prefix}-none") == {}


async def test_a_range_is_what_it_says_in_order(kafka: KafkaSite, topics: KafkaBatchTopics) -> None:
    topic = make_topic(kafka, "in", 2)
    for _ in range(3):
        write(kafka, topic, numbers(10))
    write(kafka, topic, [b"other"], partition=1)
    for start, end in ((0, 30), (3, 4), (5, 25), (29, 30)):
        found = await read(topics, topic, start, end)
        assert [record.offset for record in found] == list(range(start, end))
        assert [record.value for record in found] == [b"%d" % (offset % 10) for offset in range(start, end)]
    assert [record.value for record in await read(topics, topic, 0, 1, partition=1)] == [b"other"]


async def test_large_records_and_many(kafka: KafkaSite, topics: KafkaBatchTopics) -> None:
    topic = make_topic(kafka, "in")
    write(kafka, topic, [b"x" * 900_000] * 4, at_once=False)
    write(kafka, topic, numbers(5_000), at_once=False)
    found = await read(topics, topic, 0, 5_004)
    assert [record.offset for record in found] == list(range(5_004))


async def test_records_that_cannot_be_decoded_stop_nothing(kafka: KafkaSite, topics: KafkaBatchTopics) -> None:
    topic = make_topic(kafka, "in")
    write_around_a_bad_name(kafka.servers, topic, [b"a", b"b"], bad=1)
    write_undecodable(kafka.servers, topic, 3)
    write(kafka, topic, [b"c"])
    found = await read(topics, topic, 0, 6)
    assert [(record.offset, record.value, record.unreadable is None) for record in found] == [
        (0, b"a", True),
        (1, b"b", True),
        (2, None, False),
        (5, b"c", True),
    ]


async def test_a_topic_that_is_shorter_than_it_was(kafka: KafkaSite, topics: KafkaBatchTopics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_SILENCE_S", 1.0)
    topic = make_topic(kafka, "in")
    write(kafka, topic, numbers(3))
    with pytest.raises(RangeGone, match=f"^{topic}/0: it ends at 3, before the offset 9; is it a new topic"):
        await read(topics, topic, 0, 10)
    with pytest.raises(RangeGone, match=f"^The topic {topic} has no partition 1 any more"):
        await read(topics, topic, 0, 1, partition=1)


@pytest.mark.apache_kafka
async def test_what_is_deleted(kafka: KafkaSite, topics: KafkaBatchTopics) -> None:
    topic = make_topic(kafka, "in")
    write(kafka, topic, numbers(10))
    delete_before(kafka, topic, 4)
    assert await topics.bounds(topic) == {0: Bounds(4, 10)}
    with pytest.raises(RangeGone, match=f"^{topic}/0: the offsets 1 to 3 are deleted; it begins at 4"):
        await read(topics, topic, 1, 6)
    with pytest.raises(RangeGone, match="the offsets 1 to 2 are deleted; it begins at 4"):
        await read(topics, topic, 1, 3)
    assert len(await read(topics, topic, 4, 10)) == 6


async def test_what_is_written_is_there(kafka: KafkaSite, topics: KafkaBatchTopics) -> None:
    topic = make_topic(kafka, "out", 2)
    async with topics.writing(topic) as sink:
        await sink.append(topic, b"a", b"1", [("headrace-line", b"1")])
        await sink.append(topic, b"a", b"2")
    found = read_all(kafka.servers, topic)
    assert [(one.key, one.value) for one in found] == [(b"a", b"1"), (b"a", b"2")]
    assert Counter(one.partition for one in found).most_common(1)[0][1] == 2, "one key, one partition"


async def test_without_a_broker_nothing_hangs(tmp_path: Path) -> None:
    with tansu(tmp_path / "tansu.log") as broker:
        site = KafkaSite(broker.servers, "gone")
        topics = KafkaBatchTopics.of(site.settings(kafka_timeout_s=1.0), address_of_site(site))
        topic = make_topic(site, "in")
        write(site, topic, numbers(3))
        batches = topics.read(topic, Span(partition=0, start=0, end=3))
        broker.kill()
        started = time.monotonic()
        with pytest.raises(LogUnavailable):
            await topics.bounds(topic)
        with pytest.raises(LogUnavailable):
            await anext(batches)
        async with topics.writing(topic) as sink:
            with pytest.raises(LogUnavailable):
                await sink.append(topic, b"", b"")
        assert time.monotonic() - started < 25


async def write_one(topics: KafkaBatchTopics, topic: str, before: Callable[[], None] = lambda: None) -> None:
    async with topics.writing(topic) as sink:
        before()
        await sink.append(topic, b"", b"")


async def left_after(task: asyncio.Task[Any]) -> float:
    """How many seconds it takes to end once nobody waits for it any more."""
    began = time.monotonic()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return time.monotonic() - began


@pytest.mark.parametrize("listens", [True, False], ids=["silent", "refusing"])
async def test_without_a_broker_it_is_left_in_seconds(listens: bool) -> None:
    connected = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()

    async with serving(say_nothing) as port:
        site = KafkaSite(f"127.0.0.1:{port if listens else 1}", "away")
        topics = KafkaBatchTopics.of(site.settings(), address_of_site(site))
        for begun in (read(topics, "t", 0, 1), write_one(topics, "t")):
            connected.clear()
            task = asyncio.create_task(begun)
            await (connected.wait() if listens else asyncio.sleep(0))
            assert await left_after(task) < STOP_S


async def test_a_broker_that_falls_silent_is_left_in_seconds(tmp_path: Path) -> None:
    with tansu(tmp_path / "tansu.log") as broker:
        site = KafkaSite(broker.servers, "silent")
        topics = KafkaBatchTopics.of(site.settings(), address_of_site(site))
        topic = make_topic(site, "in")
        write(site, topic, numbers(3))
        batches = topics.read(topic, Span(partition=0, start=0, end=4))
        assert len(await anext(batches)) == 3
        paused = asyncio.Event()

        def pause() -> None:
            broker.pause()
            paused.set()

        writing = asyncio.create_task(write_one(topics, topic, pause))
        try:
            await paused.wait()
            reading = asyncio.create_task(anext(batches))
            await asyncio.sleep(0)
            assert max(await asyncio.gather(left_after(reading), left_after(writing))) < STOP_S
        finally:
            broker.go_on()
