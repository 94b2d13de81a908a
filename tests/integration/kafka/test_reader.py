"""Reading a topic from end to end, of a broker that stands still meanwhile."""

import asyncio
import time
from pathlib import Path

from headrace.kafka.address import Address
from headrace.kafka.producer import LogProducer
from headrace.kafka.reader import LogReader
from headrace.kafka.topics import Shape, create
from headrace.testing.kafka import tansu

TOPIC = "t"


async def test_who_leaves_does_not_wait_for_a_silent_broker(tmp_path: Path) -> None:
    with tansu(tmp_path / "tansu.log") as broker:
        address = Address(servers=(broker.servers,))
        create(address, [Shape(name=TOPIC, partitions=1, replicas=-1, configs={})])
        async with LogProducer(address, [TOPIC], timeout_s=10.0) as log:
            for _ in range(8):  # more than two fetches hold
                await log.append(TOPIC, None, b"x" * 800_000)
        read = 0
        batches = LogReader(address.options()).read(TOPIC)

        async def all_of_them() -> None:
            nonlocal read
            async for batch in batches:
                if not read:
                    broker.pause()
                read += len(batch)

        reading = asyncio.ensure_future(all_of_them())
        done, _ = await asyncio.wait([reading], timeout=3.0)
        assert not done
        assert 0 < read < 8
        began = time.monotonic()
        reading.cancel()
        await asyncio.wait([reading])
        assert time.monotonic() - began < 5
