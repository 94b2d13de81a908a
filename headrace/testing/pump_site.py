"""`python -m scheduler.kafka` for tests, on topics of its own, with the least of a model; and a native client beside it."""

import os
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import orjson
from kafka import KafkaConsumer, TopicPartition

from headrace.errors import LogUnavailable
from headrace.kafka.address import Address
from headrace.kafka.log_record import LogRecord
from headrace.kafka.producer import LogProducer
from headrace.kafka.reader import LogReader
from headrace.kafka.topics import Topics, create, shapes
from headrace.testing.child import running
from headrace.testing.eventually import eventually
from headrace.testing.kafka import KafkaSite
from headrace.testing.tiny_model import make_model

MODEL = "tiny"


def native_value(client_id: str, **body: Any) -> bytes:
    """A chat of one message, but for what `body` says."""
    whole = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 12, **body}
    return orjson.dumps({"id": client_id, "body": whole})


class PumpSite:
    """The pump's surroundings. `environ`: further settings of its process."""

    def __init__(self, redis_url: str, site: KafkaSite, folder: Path, **environ: str) -> None:
        make_model(folder / MODEL)
        self.site = site
        self.topics = Topics(site.prefix)
        self.address = Address(servers=tuple(site.servers.split(",")))
        create(self.address, shapes(site.settings()))
        self._log = folder / "pump.log"
        self._env = os.environ | {
            "HEADRACE_REDIS_URL": redis_url,
            "HEADRACE_QUEUE_URL": f"kafka://{site.servers}",
            "HEADRACE_KAFKA_PREFIX": site.prefix,
            "HEADRACE_MODEL": str(folder / MODEL),
            **environ,
        }

    @property
    def said(self) -> str:
        """What the processes have logged."""
        return self._log.read_text() if self._log.exists() else ""

    @asynccontextmanager
    async def pump(self) -> AsyncIterator[Process]:
        with self._log.open("ab") as log:
            async with running("scheduler.kafka", self._env, log) as process:
                yield process

    async def reads(self) -> None:
        """Until the pump that was started last is a member of the group, and not still filling a store."""
        before = self.said.count("of the log")

        async def reading() -> bool:
            return self.said.count("of the log") > before

        await eventually(reading, within=30, pause=0.05)

    def committed(self) -> int:
        """Records that the pumps need no more."""
        with closing(KafkaConsumer(group_id=f"{self.topics.prefix}.pump", **self.address.options())) as looker:
            topics = (self.topics.requests, self.topics.accepted)
            places = [TopicPartition(topic, number) for topic in topics for number in looker.partitions_for_topic(topic)]
            looker.assign(places)
            return sum(looker.committed(place, timeout_ms=5_000) or 0 for place in places)

    @asynccontextmanager
    async def client(self) -> AsyncIterator["NativeClient"]:
        async with LogProducer(self.address, [self.topics.requests, self.topics.accepted], timeout_s=10.0) as log:
            yield NativeClient(log, self.topics)

    async def records(self, topic: str) -> list[LogRecord]:
        """All that it holds now."""
        try:
            return [record async for batch in LogReader(self.address.options()).read(topic) for record in batch]
        except LogUnavailable:
            return []

    async def results(self) -> dict[str, list[dict[str, Any]]]:
        """By the client's id, every one of them: a relay may tell an end twice, with the same bytes."""
        found: dict[str, list[dict[str, Any]]] = {}
        for record in await self.records(self.topics.results):
            value = orjson.loads(record.value or b"")
            if value["id"] is not None:
                found.setdefault(value["id"], []).append(value)
        return found

    async def answered(self, ids: Sequence[str], within: float = 60.0) -> dict[str, list[dict[str, Any]]]:
        """The results, once all these requests have one."""

        async def all_there() -> dict[str, list[dict[str, Any]]] | None:
            found = await self.results()
            return found if found.keys() >= set(ids) else None

        return await eventually(all_there, within=within, pause=0.3)


class NativeClient:
    def __init__(self, log: LogProducer, topics: Topics) -> None:
        self._log = log
        self._topics = topics

    async def ask(self, client_id: str, *, headers: Sequence[tuple[str, bytes]] = (), **body: Any) -> None:
        """A chat of one message, but for what `body` says."""
        await self.write(native_value(client_id, **body), headers=headers, key=client_id.encode())

    async def write(self, value: bytes | None, *, headers: Sequence[tuple[str, bytes]] = (), key: bytes | None = None) -> None:
        await self._log.append(self._topics.requests, key, value, headers)

    async def write_accepted(self, key: bytes, value: bytes) -> None:
        await self._log.append(self._topics.accepted, key, value)
