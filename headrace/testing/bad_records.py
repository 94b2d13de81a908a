"""Records that a broker takes and a client cannot decode, written through a real producer."""

from contextlib import closing
from unittest.mock import patch

from kafka import KafkaProducer

BAD_NAME = b"tr\xff\xfeace"


class _BadName(str):
    """A header's name as its producer writes it."""

    def encode(self, *_: object) -> bytes:
        return BAD_NAME


def write_around_a_bad_name(servers: str, topic: str, values: list[bytes], bad: int) -> None:
    """All values in one batch of partition 0; the one at the index `bad` has a header whose name is not UTF-8."""
    # Long enough for all of them to be in one batch: `flush` sends it.
    with closing(KafkaProducer(bootstrap_servers=[servers], acks="all", linger_ms=10_000)) as producer:
        written = [
            producer.send(topic, value, partition=0, headers=[(_BadName("-"), b"1")] if i == bad else [("trace", b"1")])
            for i, value in enumerate(values)
        ]
        producer.flush()
        offsets = [one.get(timeout=10).offset for one in written]
    assert offsets == list(range(offsets[0], offsets[0] + len(values)))


def write_undecodable(servers: str, topic: str, count: int) -> int:
    """A batch of `count` records for partition 0, which says that it is compressed, and is not. Returns the first offset."""
    with (
        patch("kafka.record.default_records.gzip_encode", lambda _: b"not gzip"),
        closing(KafkaProducer(bootstrap_servers=[servers], acks="all", linger_ms=10_000, compression_type="gzip")) as producer,
    ):
        written = [producer.send(topic, b"z" * 100, partition=0) for _ in range(count)]
        producer.flush()
        first: int = written[0].get(timeout=10).offset
        return first
