"""Reading a topic from end to end, of a broker that stands still meanwhile."""

import asyncio
import time
from pathlib import Path

import pytest

from headrace.errors import LogUnavailable
from headrace.kafka.address import Address
from headrace.kafka.producer import LogProducer
from headrace.kafka.reader import LogReader
from headrace.kafka.topics import Shape, create
from headrace.testing.kafka import KafkaSite, tansu

TOPIC = "t"


async def test_a_topic_that_is_missing_is_not_an_empty_one(kafka: KafkaSite) -> None:
    """A store that was lost would be told to have all that the log held."""
    topic = f"{kafka.prefix}.missing"
    reader = LogReader({"bootstrap_servers": kafka.servers.split(",")})
    with pytest.raises(LogUnavailable, match=f"there is no topic {topic}"):
        await anext(reader.read(topic))
    create(Address(servers=tuple(kafka.servers.split(","))), [Shape(name=topic, partitions=1, replicas=-1, configs={})])
    assert [batch async for batch in reader.read(topic)] == []


async def test_who_leaves_does_not_wait_for_a_silent_broker(tmp_path: Path) -> None:
    with tansu(tmp_path / "tansu.log") as broker:
        address = Address(servers=(broker.servers,))
        create(address, [Shape(name=TOPIC, partitions=1, replicas=-1, configs={})])
        async with LogProducer(address, [TOPIC], timeout_s=10.0) as log:
            for _ in range(8):  # more than two fetches hold
                await log.append(TOPIC, None, b"x" * 800_000)
        silent = asyncio.Event()

        async def all_of_them() -> None:
            async for _ in LogReader(address.options()).read(TOPIC):
                broker.pause()
                silent.set()

        reading = asyncio.ensure_future(all_of_them())
        await asyncio.wait_for(silent.wait(), 30)
        # What was on its way still comes.
        done, _ = await asyncio.wait([reading], timeout=2.0)
        assert not done
        began = time.monotonic()
        reading.cancel()
        await asyncio.wait([reading])
        assert time.monotonic() - began < 5
