"""Reading a stretch of a partition, as no member of a group: the same records in the same order whenever it is read."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from headrace.batch import Bounds, Span
from headrace.errors import LogUnavailable, RangeGone
from headrace.kafka.lenient import open_consumer
from headrace.kafka.log_record import LogRecord

ANSWER_S = 3.0
"""A broker that has not answered for this long counts as gone, unless it is given more. Nobody who stops waits for longer."""
_POLL_MS = 100
_SILENCE_S = 15.0
"""Without a record, while there should be some, after which the broker counts as gone."""

_CLIENT: Mapping[str, Any] = MappingProxyType(
    {
        "enable_auto_commit": False,
        # Where the range begins is not for the client to choose: what is deleted must be noticed.
        "auto_offset_reset": "none",
        # What a producer has taken back was never asked.
        "isolation_level": "read_committed",
        "enable_incremental_fetch_sessions": False,
        # See headrace/kafka/consumer.py.
        "max_poll_records": 1 << 30,
        "max_partition_fetch_bytes": 1 << 20,
        "fetch_max_bytes": 8 << 20,
        "fetch_max_wait_ms": _POLL_MS,
    }
)


class RangeReader:
    """`options` say how to connect: `headrace/kafka/address.py`; `answer_s` how long a broker has to answer."""

    def __init__(self, options: Mapping[str, Any], answer_s: float = ANSWER_S) -> None:
        self._options = options
        self._answer_ms = int(answer_s * 1_000)

    async def bounds(self, topic: str, timeout_s: float) -> dict[int, Bounds]:
        """What each partition holds now; empty if there is no such topic. Raises LogUnavailable, after the time-out or a little later."""
        return await asyncio.to_thread(self._bounds, topic, timeout_s)

    async def read(self, topic: str, span: Span) -> AsyncGenerator[list[LogRecord], None]:
        """All records of the span. Raises RangeGone, LogUnavailable. Left early, it ends within the time that a broker has to answer."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="kafka-range") as thread:  # which owns the client
            reading = _Reading(TopicPartition(topic, span.partition), span, self._answer_ms)
            try:
                await loop.run_in_executor(thread, reading.open, self._options)
                while batch := await loop.run_in_executor(thread, reading.next):
                    yield batch
            except KafkaError as error:
                raise LogUnavailable(f"Kafka did not let {topic} be read: {error}") from error
            finally:
                reading.is_left = True
                await loop.run_in_executor(thread, reading.close)

    def _bounds(self, topic: str, timeout_s: float) -> dict[int, Bounds]:
        give_up_at = time.monotonic() + timeout_s

        def left_ms() -> int:
            return max(1, int((give_up_at - time.monotonic()) * 1_000))

        try:
            consumer = open_consumer(**self._options, **_CLIENT, bootstrap_timeout_ms=left_ms(), request_timeout_ms=left_ms())
        except KafkaError as error:
            raise LogUnavailable(f"Kafka did not tell of {topic}: {error}") from error
        try:
            places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
            if not places:
                return {}
            first = consumer.beginning_offsets(places, timeout_ms=left_ms())
            ends = consumer.end_offsets(places, timeout_ms=left_ms())
            # Not every broker counts right when it is asked for ends alone: what comes with a fetch is.
            consumer.assign(places)
            for place in places:
                consumer.seek(place, ends[place])
            while any(consumer.highwater(place) is None for place in places):
                if time.monotonic() > give_up_at:
                    raise LogUnavailable(f"Kafka did not tell within {timeout_s:g} s where {topic} ends")
                consumer.poll(timeout_ms=_POLL_MS)
            return {place.partition: Bounds(first[place], max(ends[place], consumer.highwater(place))) for place in places}
        except KafkaError as error:
            raise LogUnavailable(f"Kafka did not tell of {topic}: {error}") from error
        finally:
            consumer.close(autocommit=False, timeout_ms=1_000)


class _Reading:
    def __init__(self, place: TopicPartition, span: Span, answer_ms: int) -> None:
        self.is_left = False
        """Nobody waits for records any more."""
        self._place = place
        self._span = span
        self._answer_ms = answer_ms
        self._consumer: Any = None

    def open(self, options: Mapping[str, Any]) -> None:
        """Raises RangeGone, KafkaError."""
        self._consumer = open_consumer(**options, **_CLIENT, bootstrap_timeout_ms=self._answer_ms)
        self._find()
        if self.is_left:
            return
        self._consumer.assign([self._place])
        self._consumer.seek(self._place, self._span.start)
        self._check_start()

    def next(self) -> list[LogRecord]:
        """Empty: that was all. Raises RangeGone, KafkaError."""
        give_up_at = time.monotonic() + _SILENCE_S
        # By position and not by record: the last offsets need not hold any.
        while not self.is_left and self._position() < self._span.end:
            if time.monotonic() > give_up_at:
                self._check_end(self._consumer.highwater(self._place))
                raise KafkaError(f"nothing came for {_SILENCE_S:g} s")
            before = self._position()
            try:
                found = self._consumer.poll(timeout_ms=_POLL_MS).get(self._place, [])
            except OffsetOutOfRangeError:
                self._check_start()
                self._check_end(self._consumer.end_offsets([self._place], timeout_ms=self._answer_ms)[self._place])
                raise
            if batch := [LogRecord.of(raw) for raw in found if raw.offset < self._span.end]:
                return batch
            if self._position() > before:
                give_up_at = time.monotonic() + _SILENCE_S
        return []

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=1_000)

    def _find(self) -> None:
        """A broker that has just started may not know yet what there is."""
        give_up_at = time.monotonic() + _SILENCE_S
        while not self.is_left and self._place.partition not in self._consumer.partitions_for_topic(self._place.topic):
            if time.monotonic() > give_up_at:
                raise RangeGone(f"The topic {self._place.topic} has no partition {self._place.partition} any more.")
            time.sleep(_POLL_MS / 1_000)

    def _position(self) -> int:
        position: int = self._consumer.position(self._place, timeout_ms=self._answer_ms)
        return position

    def _check_start(self) -> None:
        """Raises RangeGone if the broker has deleted what was to be read next."""
        first: int = self._consumer.beginning_offsets([self._place], timeout_ms=self._answer_ms)[self._place]
        position = self._position()
        if position < min(first, self._span.end):
            last = min(first, self._span.end) - 1
            raise RangeGone(f"{_named(self._place)}: the offsets {position} to {last} are deleted; it begins at {first}.")

    def _check_end(self, end: int | None) -> None:
        """Raises RangeGone if the partition is shorter than when the range was chosen. None: it is not known."""
        if end is not None and end < self._span.end:
            raise RangeGone(f"{_named(self._place)}: it ends at {end}, before the offset {self._span.end - 1}; is it a new topic?")


def _named(place: TopicPartition) -> str:
    return f"{place.topic}/{place.partition}"
