"""What the relay says of itself."""

import asyncio

from headrace.errors import LogUnavailable
from headrace.kafka.topics import Topics
from headrace.testing.eventually import eventually
from scheduler.kafka.relay import Relay


class Outbox:
    """Of a log that takes nothing."""

    shards = 1

    async def ended(self, *_: object, **__: object) -> None:
        raise LogUnavailable("away")

    async def waiting(self, limit: int) -> int:
        return min(7, limit)


async def test_what_waits_is_counted_while_the_log_is_away() -> None:
    counts: list[int] = []
    relay = Relay(
        Outbox(),  # type: ignore[arg-type]  # the rest of it is not come to
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        topics=Topics("t"),
        prompters=lambda _: None,  # type: ignore[arg-type,return-value]
        owner="o",
        moved=lambda _: None,
        behind=counts.append,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))

    async def counted() -> bool:
        return counts == [7]

    await eventually(counted)
    stop.set()
    await running
