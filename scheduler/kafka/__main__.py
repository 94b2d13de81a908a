"""The pump's process: `python -m scheduler.kafka`. It brings the log's records into the queue, and what has ended back into the log."""

import asyncio
import logging
import os
import secrets
import time

from prometheus_client import start_http_server

from headrace.errors import SettingsError
from headrace.kafka.address import Address, address_of
from headrace.kafka.consumer import LogConsumer
from headrace.kafka.producer import LogProducer
from headrace.kafka.reader import LogReader
from headrace.kafka.standing import Standing
from headrace.kafka.topics import Topics
from headrace.keys_file import KeysFile
from headrace.lifecycle import on_stop_signal, refusing, start
from headrace.queues.connect import connect as connect_queue
from headrace.queues.connect import connect_outbox
from headrace.settings import Settings
from headrace.wire.served import served_prompters
from scheduler.kafka.metrics import PumpMetrics
from scheduler.kafka.pump import Pump, Rules
from scheduler.kafka.recovery import Rebuilder
from scheduler.kafka.relay import Relay
from scheduler.kafka.shift import Shift

logger = logging.getLogger("scheduler.kafka")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Membership:
    """Makes the process a member of the group, anew each time, and knows where the latest stands."""

    def __init__(self, address: Address, topics: Topics) -> None:
        self._address = address
        self._topics = topics
        self._latest: LogConsumer | None = None

    def join(self) -> LogConsumer:
        read = (self._topics.accepted, self._topics.requests)
        self._latest = LogConsumer(self._address.options(), topics=read, group=f"{self._topics.prefix}.pump")
        return self._latest

    def standing(self) -> Standing | None:
        return None if self._latest is None else self._latest.standing


async def run(settings: Settings) -> None:
    stop = asyncio.Event()
    on_stop_signal(stop.set)
    address = address_of(settings)
    if address is None:
        raise SettingsError("HEADRACE_QUEUE_URL names no Kafka: there is nothing to pump")
    topics = Topics(settings.kafka_prefix)
    membership = Membership(address, topics)
    metrics = PumpMetrics(membership.standing)
    prompters = served_prompters(settings)
    owner = f"{settings.worker_name}-{os.getpid()}-{secrets.token_hex(4)}"
    keys = None if settings.keys_file is None else KeysFile(settings.keys_file)
    written = (topics.results, topics.tokens, topics.dead_letter)
    if settings.pump_port:
        start_http_server(settings.pump_port, addr=settings.host, registry=metrics.registry)
    async with (
        connect_queue(settings) as queue,
        connect_outbox(settings) as outbox,
        LogProducer(address, written, timeout_s=settings.kafka_timeout_s) as sink,
    ):
        rules = Rules(
            topics=topics,
            shards=settings.shards,
            longest_ms=settings.job_ttl_s * 1_000,
            tenant_of=None if keys is None else keys.tenant_of,
        )
        pump = Pump(sink, intake=queue, outbox=outbox, prompters=prompters, rules=rules, now_ms=now_ms, counted=metrics.counted)
        rebuilder = Rebuilder(
            LogReader(address.options()),
            sink,
            outbox,
            queue,
            topics=topics,
            shards=settings.shards,
            keep_ms=settings.kafka_retention_s * 1_000,
            owner=owner,
            take=pump.take,
            now_ms=now_ms,
        )
        relay = Relay(outbox, queue, sink, topics=topics, prompters=prompters, owner=owner, moved=metrics.moved, behind=metrics.behind)
        shift = Shift(rebuilder, pump, membership.join, metrics.recovered)
        logger.info("pumps between %s and the queue", address)
        await asyncio.gather(shift.run(stop), relay.run(stop))
    logger.info("stopped")


def main() -> None:
    settings = start("pump", module="scheduler.kafka", does="Brings Kafka's records to the queue, and results back.")
    with refusing("pump"):
        asyncio.run(run(settings))


if __name__ == "__main__":
    main()
