"""Connections to Kafka whose k-th record or commit goes wrong, counted with the commands to the store."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError

from headrace.errors import LogUnavailable
from headrace.kafka.address import Address
from headrace.kafka.consumer import LogConsumer
from headrace.kafka.producer import Headers, LogProducer
from headrace.testing.eventually import eventually
from headrace.testing.fuse import Fuse

APPEND, COMMIT = "append to the log", "commit to the log"

WAIT_MS = 5
"""For records: a story has few, and hundreds of readers that find none."""


class FusedLog(LogProducer):
    def __init__(self, address: Address, topics: Sequence[str], fuse: Fuse) -> None:
        super().__init__(address, topics, timeout_s=5.0)
        self._fuse = fuse

    async def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        passing = self._fuse.passing([(APPEND,)])
        if passing != 0:
            await super().append(topic, key, value, headers)
        if passing is not None:
            self._fuse.go_off(LogUnavailable(f"no acknowledgement of command {self._fuse.at}"))


class FusedMember:
    """The only member of a group. Its partitions are assigned to it, as joining takes seconds and a member that died is missed only after
    its session."""

    def __init__(self, address: Address, topics: Sequence[str], group: str, fuse: Fuse) -> None:
        self._member = LogConsumer(address.options(), topics=topics, group=group)
        self._fuse = fuse
        self._seat: _Seat | None = None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[LogConsumer]:
        """Commits once, in the end."""

        def sit(**options: Any) -> _Seat:
            self._seat = _Seat(self._fuse, **{**options, "fetch_max_wait_ms": WAIT_MS})
            return self._seat

        with (
            patch("headrace.kafka.lenient.KafkaConsumer", sit),
            patch("headrace.kafka.consumer.COMMIT_S", float("inf")),
            patch("headrace.kafka.consumer.POLL_MS", WAIT_MS),
        ):
            async with self._member:
                yield self._member

    async def all_done(self) -> None:
        """Until every record was read and is done."""

        async def done() -> bool:
            return self._seat is not None and self._seat.caught_up and self._member.standing.in_flight == 0

        await eventually(done, pause=0.005)


class _Seat(KafkaConsumer):  # type: ignore[misc]  # kafka-python has no annotations
    def __init__(self, fuse: Fuse, **options: Any) -> None:
        super().__init__(**options)
        self._fuse = fuse
        self.caught_up = False
        """All that there is was delivered."""

    def subscribe(self, topics: Collection[str], listener: Any) -> None:
        places = [TopicPartition(topic, number) for topic in topics for number in sorted(self.partitions_for_topic(topic))]
        self.assign(places)
        asyncio.run(listener.on_partitions_assigned(places))

    def poll(self, **options: Any) -> Any:
        # Of the polls before this one, whose records were delivered meanwhile.
        self.caught_up = all(self._is_read(place) for place in self.assignment())
        return super().poll(**options)

    def commit(self, offsets: Mapping[TopicPartition, Any], **options: Any) -> None:
        passing = self._fuse.passing([(COMMIT,)])
        if passing != 0:
            super().commit(offsets, **options)
        if passing is not None:
            self._fuse.go_off(KafkaTimeoutError(f"no answer to command {self._fuse.at}"))

    def _is_read(self, place: TopicPartition) -> bool:
        end = self.highwater(place)
        return end is not None and self.position(place) >= end
