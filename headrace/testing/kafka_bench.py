"""The API's queue on a test bench: Redis with Kafka in front of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from headrace.kafka.address import Address
from headrace.kafka.producer import LogProducer
from headrace.kafka.queue import KafkaQueue
from headrace.kafka.topics import Topics, create, shapes
from headrace.queues.rules import QueueLimits
from headrace.queues.server import serving
from headrace.queues.shards import read_library
from headrace.testing.bench import RedisBench, on_virtual_time
from headrace.testing.kafka import KafkaSite


def make_topics(site: KafkaSite) -> None:
    create(Address(servers=(site.servers,)), shapes(site.settings()))


@asynccontextmanager
async def kafka_bench(url: str, site: KafkaSite, limits: QueueLimits) -> AsyncIterator[RedisBench]:
    """On the server at `url`, whose data it deletes, and topics of the site, which it makes."""
    make_topics(site)
    topics, library = Topics(site.prefix), on_virtual_time(read_library())
    async with (
        Redis.from_url(url, decode_responses=True, protocol=2) as raw,
        serving(url, library) as server,
        LogProducer(Address(servers=(site.servers,)), [topics.accepted], timeout_s=5.0) as log,
    ):
        yield await RedisBench.on(KafkaQueue(server, shards=1, limits=limits, log=log, topics=topics), raw)
