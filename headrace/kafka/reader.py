"""Reading a topic from end to end, as no member of a group: what it holds now, and no further."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, UnknownTopicOrPartitionError

from headrace.errors import LogUnavailable
from headrace.kafka.lenient import open_consumer
from headrace.kafka.log_record import LogRecord

ANSWER_MS = 10_000
_POLL_MS = 500
_SILENCE = 40
"""Polls in a row without a record, while there should be some, after which the broker counts as gone."""


class LogReader:
    """`options` say how to connect: `headrace/kafka/address.py`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options

    async def read(self, topic: str, *, since_ms: int = 0) -> AsyncIterator[list[LogRecord]]:
        """All that the topic holds now, of records since `since_ms`.

        Raises LogUnavailable, of a topic that does not exist too: a broker that has just started may not know yet what it has, and what was
        not seen must not be taken for empty.
        """
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="kafka-reader") as thread:  # which owns the client
            reading = _Reading()
            try:
                await loop.run_in_executor(thread, reading.open, self._options, topic, since_ms)
                while batch := await loop.run_in_executor(thread, reading.next):
                    yield batch
            except KafkaError as error:
                raise LogUnavailable(f"Kafka did not let {topic} be read: {error}") from error
            finally:
                # For a silent broker `next` waits longer than a process has to stop.
                reading.is_left = True
                await loop.run_in_executor(thread, reading.close)


class _Reading:
    def __init__(self) -> None:
        self.is_left = False
        """Nobody waits for records any more."""
        self._consumer: Any = None
        self._ends: dict[TopicPartition, int] = {}
        self._seen: set[TopicPartition] = set()
        """Partitions whose end is as the first fetch of them told: not every broker counts right when it is asked for ends alone."""

    def open(self, options: Mapping[str, Any], topic: str, since_ms: int) -> None:
        self._consumer = open_consumer(
            **options,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            enable_incremental_fetch_sessions=False,
            bootstrap_timeout_ms=ANSWER_MS,
            # See headrace/kafka/consumer.py.
            max_poll_records=1 << 30,
            max_partition_fetch_bytes=1 << 20,
            fetch_max_bytes=8 << 20,
        )
        partitions = [TopicPartition(topic, number) for number in sorted(self._consumer.partitions_for_topic(topic) or ())]
        if not partitions:
            raise UnknownTopicOrPartitionError(f"there is no topic {topic}; `headrace kafka init` makes what is missing")
        self._consumer.assign(partitions)
        starts = self._starts(partitions, since_ms)
        ends = self._consumer.end_offsets(partitions, timeout_ms=ANSWER_MS)
        self._ends = {partition: ends[partition] for partition in partitions if starts[partition] < ends[partition]}
        for partition in partitions:
            self._consumer.seek(partition, starts[partition])
        if idle := [partition for partition in partitions if partition not in self._ends]:
            self._consumer.pause(*idle)

    def _starts(self, partitions: list[TopicPartition], since_ms: int) -> dict[TopicPartition, int]:
        """Of a partition without a record so late the end, so that nothing of it is read."""
        first: dict[TopicPartition, int] = self._consumer.beginning_offsets(partitions, timeout_ms=ANSWER_MS)
        if not since_ms:
            return first
        found = self._consumer.offsets_for_times(dict.fromkeys(partitions, since_ms), timeout_ms=ANSWER_MS)
        ends = self._consumer.end_offsets(partitions, timeout_ms=ANSWER_MS)
        return {one: ends[one] if found.get(one) is None else max(first[one], found[one].offset) for one in partitions}

    def next(self) -> list[LogRecord]:
        """Empty: that was all. Raises KafkaError."""
        for _ in range(_SILENCE):
            if not self._ends or self.is_left:
                return []
            found = self._consumer.poll(timeout_ms=_POLL_MS)
            for place in self._ends.keys() - self._seen:
                if (end := self._consumer.highwater(place)) is not None:
                    self._ends[place] = max(self._ends[place], end)
                    self._seen.add(place)
            batch = [LogRecord.of(raw) for place, records in found.items() for raw in records if raw.offset < self._ends.get(place, 0)]
            # By position and not by record: the last offsets of a compacted partition need not hold any.
            for place in [place for place in self._seen & self._ends.keys() if self._is_read(place)]:
                del self._ends[place]
                self._consumer.pause(place)
            if batch:
                return batch
        raise KafkaError(f"nothing came for {_SILENCE * _POLL_MS // 1_000} s")

    def _is_read(self, place: TopicPartition) -> bool:
        return bool(self._consumer.position(place, timeout_ms=ANSWER_MS) >= self._ends[place])

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=1_000)
