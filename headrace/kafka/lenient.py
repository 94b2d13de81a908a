"""A consumer that no record can stop.

The client raises at what it cannot decode, stays where it is, and meets it again with the next fetch: one bad record would block its
partition for good, and all that is delivered with it. Brokers let such records pass: none looks at the names of headers, and a codec
needs a library where it is read. Here

* a header's name that is not UTF-8 has SUBSTITUTE in place of what is wrong, and the record is read like any other;
* what cannot be decoded at all, a record and so whatever stands behind it in its batch, is one record without a value, which says why by
  its header UNREADABLE. Reading goes on with the next batch.
"""

from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint

from headrace.kafka.client import open_client
from headrace.kafka.log_record import SUBSTITUTE, UNREADABLE

_READ_AS_TEXT = 2
"""The version of the format from which records have headers; brokers have kept nothing older since Kafka 3.0."""


def open_consumer(**options: Any) -> Any:
    """A KafkaConsumer."""
    consumer = open_client(KafkaConsumer, **options)
    consumer._fetcher.PartitionRecords = _Records  # it has no option for this
    return consumer


class _Records(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no annotations
    def _unpack_records(self, partition: Any, batches: Any, *deserializers: Any) -> Any:
        return super()._unpack_records(partition, _Batches(batches), *deserializers)


class _Batches:
    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def next_batch(self) -> Any:
        batch = self._batches.next_batch()
        return batch if batch is None or batch.magic < _READ_AS_TEXT else _Batch(batch._buffer)


class _Batch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no annotations
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._is_sound = super().validate_crc()

    def validate_crc(self) -> bool:
        """Told by the one record that such a batch has."""
        return True

    def __iter__(self) -> Iterator[Any]:
        offset = self.base_offset
        try:
            if not self._is_sound:
                raise CorruptRecordError("its checksum is wrong")
            self._maybe_uncompress()
            for _ in range(self.records_count):
                record = next(self)
                yield record
                offset = record.offset + 1
        except Exception as error:  # noqa: BLE001 - zlib's, struct's or any codec's
            if offset <= self.last_offset:
                yield self._unreadable(offset, f"{type(error).__name__}: {error}")

    def _unreadable(self, offset: int, why: str) -> DefaultRecord:
        reason = f"The offsets {offset} to {self.last_offset} cannot be decoded: {why}."
        headers = [(UNREADABLE, reason.encode(errors="replace"))]
        return DefaultRecord(0, offset, self.max_timestamp, self.timestamp_type, None, None, headers)

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._spell_names()
            return super()._read_msg()

    def _spell_names(self) -> None:
        """Of the record that is next; in place, so each byte that is wrong becomes one."""
        data = self._buffer
        _, at = decode_varint(data, self._pos)  # its length
        for _ in ("attributes", "timestamp", "offset"):
            _, at = decode_varint(data, at)
        for _ in ("key", "value"):
            size, at = decode_varint(data, at)
            at += max(size, 0)
        count, at = decode_varint(data, at)
        for _ in range(count):
            size, at = decode_varint(data, at)
            data[at : at + size] = _spelled(bytes(data[at : at + size]))
            size, at = decode_varint(data, at + size)
            at += max(size, 0)


def _spelled(name: bytes) -> bytes:
    try:
        name.decode()
    except UnicodeDecodeError:
        return bytes(byte if byte < 0x80 else ord(SUBSTITUTE) for byte in name)
    return name
