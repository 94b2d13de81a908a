"""What is said of a range that a broker has deleted; that it is so cannot be brought about on the one that tests start."""

from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import OffsetOutOfRangeError

import headrace.kafka.range_reader as reading
from headrace.batch import Span
from headrace.errors import LogUnavailable, RangeGone
from headrace.kafka.range_reader import RangeReader

PLACE = TopicPartition("in", 0)


class Partition:
    """A consumer of one partition that holds the offsets from `first` on, before `end`. At the poll `loses_at`, all before `first` goes."""

    def __init__(self, first: int, end: int, *, loses_at: int = 0) -> None:
        self.closed = False
        self._first = first
        self._end = end
        self._polls_left = loses_at
        self._at = 0

    def __call__(self, **_: Any) -> "Partition":
        return self

    def partitions_for_topic(self, _: str) -> set[int]:
        return {0}

    def assign(self, _: object) -> None: ...

    def seek(self, _: object, offset: int) -> None:
        self._at = offset

    def position(self, _: object, timeout_ms: int) -> int:
        return self._at

    def beginning_offsets(self, _: object, timeout_ms: int) -> dict[TopicPartition, int]:
        return {PLACE: 0 if self._polls_left else self._first}

    def end_offsets(self, _: object, timeout_ms: int) -> dict[TopicPartition, int]:
        return {PLACE: self._end}

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        self._polls_left = max(0, self._polls_left - 1)
        if not self.beginning_offsets(None, 0)[PLACE] <= self._at <= self._end:
            raise OffsetOutOfRangeError({PLACE: self._at})
        self._at += 1
        return {}

    def highwater(self, _: object) -> int:
        return self._end

    def close(self, **_: Any) -> None:
        self.closed = True


async def read(monkeypatch: pytest.MonkeyPatch, partition: Partition, start: int, end: int) -> None:
    monkeypatch.setattr(reading, "open_consumer", partition)
    try:
        async for _ in RangeReader({}).read("in", Span(partition=0, start=start, end=end)):
            raise AssertionError("it has no records")
    finally:
        assert partition.closed


async def test_what_is_deleted_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RangeGone, match=r"^in/0: the offsets 2 to 39 are deleted; it begins at 40\.$"):
        await read(monkeypatch, Partition(40, 100), 2, 50)
    with pytest.raises(RangeGone, match=r"^in/0: the offsets 2 to 9 are deleted; it begins at 40\.$"):
        await read(monkeypatch, Partition(40, 100), 2, 10)


async def test_what_is_deleted_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RangeGone, match=r"^in/0: the offsets 4 to 39 are deleted; it begins at 40\.$"):
        await read(monkeypatch, Partition(40, 100, loses_at=3), 2, 50)


async def test_what_is_deleted_behind_the_reader_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    await read(monkeypatch, Partition(40, 100, loses_at=45), 2, 50)


async def test_a_new_topic_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RangeGone, match=r"^in/0: it ends at 30, before the offset 49; is it a new topic\?$"):
        await read(monkeypatch, Partition(0, 30), 40, 50)


async def test_what_is_out_of_range_for_a_moment_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    partition = Partition(0, 60)
    monkeypatch.setattr(partition, "poll", lambda timeout_ms: (_ for _ in ()).throw(OffsetOutOfRangeError({PLACE: 40})))
    with pytest.raises(LogUnavailable):
        await read(monkeypatch, partition, 40, 50)
