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
