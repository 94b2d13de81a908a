"""A user's own topics on a real broker."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from headrace.kafka.address import Address
from headrace.kafka.topics import Shape, create
from headrace.testing.kafka import KafkaSite


def address_of_site(site: KafkaSite) -> Address:
    return Address(servers=tuple(site.servers.split(",")))


def make_topic(site: KafkaSite, name: str, partitions: int = 1, **configs: str) -> str:
    """Its whole name, which does not begin as those of Headrace's own topics."""
    topic = f"{site.prefix}-{name}"
    create(address_of_site(site), [Shape(name=topic, partitions=partitions, replicas=-1, configs=configs)])
    return topic


def write(site: KafkaSite, topic: str, values: Sequence[bytes | None], *, partition: int = 0, at_once: bool = True) -> None:
    """`at_once`: all in one batch, as producers do under load."""
    linger_ms = 10_000 if at_once else 0
    with closing(KafkaProducer(bootstrap_servers=site.servers.split(","), acks="all", linger_ms=linger_ms)) as producer:
        written = [producer.send(topic, value, partition=partition) for value in values]
        producer.flush()
        for one in written:
            one.get(timeout=10)


def delete_before(site: KafkaSite, topic: str, offset: int) -> Any:
    """As retention does, of partition 0."""
    with closing(KafkaAdminClient(bootstrap_servers=site.servers.split(","))) as admin:
        return admin.delete_records({TopicPartition(topic, 0): offset})
