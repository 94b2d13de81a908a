"""The API's queue on a test bench: Redis with Kafka in front of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kafka import KafkaAdminClient
from redis.asyncio import Redis

from headrace.kafka.address import Address
from headrace.kafka.client import open_client
from headrace.kafka.producer import LogProducer
from headrace.kafka.queue import KafkaQueue
from headrace.kafka.topics import Topics, create, shapes
from headrace.queues.rules import QueueLimits
from headrace.queues.server import Library, serving
from headrace.queues.shards import read_library
from headrace.testing.bench import RedisBench, on_virtual_time
from headrace.testing.kafka import KafkaSite


def make_topics(site: KafkaSite) -> None:
    create(_address(site), shapes(site.settings()))


def remove_topics(site: KafkaSite) -> None:
    """For whoever makes hundreds: brokers and clients become slow with their number."""
    with open_client(KafkaAdminClient, **_address(site).options()) as admin:
        admin.delete_topics([shape.name for shape in shapes(site.settings())])


@asynccontextmanager
async def kafka_queue(url: str, site: KafkaSite, limits: QueueLimits, library: Library) -> AsyncIterator[KafkaQueue]:
    """On the server at `url` and topics of the site, which must be there."""
    topics = Topics(site.prefix)
    async with serving(url, library) as server, LogProducer(_address(site), [topics.accepted], timeout_s=5.0) as log:
        yield KafkaQueue(server, shards=1, limits=limits, log=log, topics=topics)


@asynccontextmanager
async def kafka_bench(url: str, site: KafkaSite, limits: QueueLimits) -> AsyncIterator[RedisBench]:
    """On the server at `url`, whose data it deletes, and topics of the site, which it makes."""
    make_topics(site)
    async with (
        Redis.from_url(url, decode_responses=True, protocol=2) as raw,
        kafka_queue(url, site, limits, on_virtual_time(read_library())) as queue,
    ):
        yield await RedisBench.on(queue, raw)


def _address(site: KafkaSite) -> Address:
    return Address(servers=tuple(site.servers.split(",")))
