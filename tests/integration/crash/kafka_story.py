"""A story of three requests with Kafka in front of the store: one under a key, one without, one of a client that knows Kafka alone. They
are reserved, appended, admitted by the API or by the pump, worked on, and told by the relay.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from unittest.mock import patch

import orjson
from fastapi import FastAPI

from headrace.errors import LogUnavailable, QueueUnavailable
from headrace.job import Job
from headrace.kafka.address import Address
from headrace.kafka.log_record import LogRecord
from headrace.kafka.producer import LogProducer
from headrace.kafka.queue import KafkaQueue
from headrace.kafka.reader import LogReader
from headrace.kafka.topics import Topics
from headrace.queues.outbox import RedisOutbox
from headrace.queues.redis import RedisQueue
from headrace.queues.server import Server
from headrace.state import State
from headrace.testing.fuse import Fuse
from headrace.testing.kafka import KafkaSite, new_site
from headrace.testing.kafka_bench import make_topics, remove_topics
from headrace.testing.kafka_fuse import FusedLog, FusedMember
from headrace.testing.words import WordPrompter
from scheduler.kafka.pump import Pump, Rules
from scheduler.kafka.relay import LEASE_MS as RELAY_LEASE_MS
from scheduler.kafka.relay import Moved, Relay
from tests.at_work import MODEL
from tests.integration.crash.story import (
    ANSWERED,
    LIMITS,
    PATIENCE,
    PROMPT,
    PROMPT_IDS,
    TOKENS,
    Act,
    Actor,
    Stage,
    Story,
    read,
    send,
    sweep,
    work,
)
from workers.backends.scripted import answer_to
from workers.worker import Worker

KAFKA_LIMITS = replace(LIMITS, reservation_ms=60_000)
"""What nobody admits is forgotten long before what has ended is purged."""
ONCE_TOKENS, NATIVE_TOKENS = 5, 3
"""By how many tokens they ask for, requests are told apart: who loses an answer loses the id."""
NATIVE_ID = "order-17"
STEPS = TOKENS + ONCE_TOKENS + NATIVE_TOKENS


@dataclass
class KafkaStage(Stage):
    address: Address = field(kw_only=True)
    topics: Topics = field(kw_only=True)
    told: list[str] = field(default_factory=list)
    """Ids of those who asked without a key, and were answered."""
    refused: int = 0
    """How many of them were not."""

    @asynccontextmanager
    async def submitter(self, server: Server) -> AsyncIterator[RedisQueue]:
        async with FusedLog(self.address, [self.topics.accepted], self.fuse) as log:
            yield KafkaQueue(server, shards=self.shards, limits=self.limits, log=log, topics=self.topics)

    async def records(self, topic: str) -> list[LogRecord]:
        return [record async for batch in LogReader(self.address.options()).read(topic) for record in batch]


async def submit(stage: Stage) -> None:
    async with stage.api() as http:
        await send(stage, http, ANSWERED, TOKENS)


async def ask_once(stage: KafkaStage) -> None:
    """Without a key, whoever is refused lets it be."""
    async with stage.api() as http:
        answer = await http.post("/v1/jobs", json={"model": MODEL, "prompt": PROMPT, "max_tokens": ONCE_TOKENS})
        if answer.status_code == 503:
            stage.refused += 1
        else:
            stage.told.append(answer.raise_for_status().json()["id"])


async def ask_natively(stage: KafkaStage) -> None:
    """Twice, as who did not hear that the first one was written. The client is no process of ours, and nothing happens to it."""
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": NATIVE_TOKENS}
    value = orjson.dumps({"id": NATIVE_ID, "endpoint": "/v1/completions", "body": body})
    async with LogProducer(stage.address, [stage.topics.requests], timeout_s=5.0) as log:
        for _ in range(2):
            await log.append(stage.topics.requests, NATIVE_ID.encode(), value, [("tokens", b"true")])


async def pump(stage: KafkaStage) -> None:
    """All that the log has."""
    topics = stage.topics
    async with stage.process() as server, FusedLog(stage.address, [topics.results, topics.dead_letter], stage.fuse) as sink:
        pump = Pump(
            sink,
            intake=RedisQueue(server, shards=stage.shards, limits=stage.limits),
            outbox=RedisOutbox(server, shards=stage.shards, limits=stage.limits),
            prompters=lambda _: WordPrompter(),
            rules=Rules(topics=topics, shards=stage.shards, longest_ms=LIMITS.retention_ms, tenant_of=None),
            now_ms=lambda: 0,  # the store's time is not the log's: nothing ages on its way
            counted=lambda _: None,
        )
        member = FusedMember(stage.address, (topics.accepted, topics.requests), f"{topics.prefix}.pump", stage.fuse)
        with patch("scheduler.kafka.pump.RETRY_S", 0.0):
            async with member.reading() as source:
                pumping = asyncio.create_task(pump.run(source))
                await member.all_done()
                pumping.cancel()
                with suppress(asyncio.CancelledError):
                    await pumping


async def relay(stage: KafkaStage) -> None:
    """All that has ended, once whoever did so before has lost its lease."""
    await stage.pass_time(RELAY_LEASE_MS)
    topics = stage.topics
    async with stage.process() as server, FusedLog(stage.address, [topics.results, topics.tokens], stage.fuse) as sink:
        relay = Relay(
            RedisOutbox(server, shards=stage.shards, limits=stage.limits),
            RedisQueue(server, shards=stage.shards, limits=stage.limits),
            sink,
            topics=topics,
            prompters=lambda _: WordPrompter(),
            owner=f"relay-{os.getpid()}",
            moved=lambda _: None,
            behind=lambda _: None,
        )
        for _ in range(PATIENCE):
            with suppress(QueueUnavailable, LogUnavailable):
                if await relay.look() == Moved():
                    return
    raise AssertionError("the relay comes to no end")


async def ask_again(stage: Stage) -> None:
    """Under its key it is the same request, now that it has ended too."""
    async with stage.api() as http:
        await send(stage, http, ANSWERED, TOKENS)


async def _check(stage: KafkaStage, jobs: Mapping[str, Job]) -> None:
    assert {(job.state, job.reason) for job in jobs.values()} == {(State.DONE, "length")}
    assert all(job.committed == job.request.sampling.max_tokens for job in jobs.values())
    ids = {asked: {job_id for job_id, job in jobs.items() if job.committed == asked} for asked in (TOKENS, ONCE_TOKENS, NATIVE_TOKENS)}
    assert ids[TOKENS] == {stage.ids[ANSWERED]}
    assert len(ids[NATIVE_TOKENS]) == 1
    assert len(stage.told) + stage.refused == 1
    unheard = ids[ONCE_TOKENS] - set(stage.told)
    assert ids[ONCE_TOKENS] >= set(stage.told)
    assert len(unheard) <= stage.fuse.blow.deadly, "it was refused, and runs all the same; or runs twice"
    await _check_log(stage, jobs, *ids[NATIVE_TOKENS])


async def _check_log(stage: KafkaStage, jobs: Mapping[str, Job], native: str) -> None:
    """What clients of the log have been told: once, or the same again."""
    results = Counter((record.key or b"").decode() for record in await stage.records(stage.topics.results))
    assert results.keys() == jobs.keys()
    assert len({record.value for record in await stage.records(stage.topics.results)}) == len(jobs)
    told = [orjson.loads(record.value or b"") for record in await stage.records(stage.topics.tokens)]
    assert {one["job_id"] for one in told} == {native}
    by_position = {one["position"]: one["token_ids"] for one in told}
    assert all(by_position[one["position"]] == one["token_ids"] for one in told)
    tokens = [token for position in sorted(by_position) for token in by_position[position]]
    assert tuple(tokens) == answer_to(PROMPT_IDS, NATIVE_TOKENS)
    assert await stage.records(stage.topics.dead_letter) == []


def kafka_story(servers: str) -> Story:
    """Each time it is told on topics of its own."""
    sites: list[KafkaSite] = []

    def opened(url: str, app: FastAPI, fuse: Fuse, shards: int) -> KafkaStage:
        if sites:
            remove_topics(sites.pop())
        sites.append(site := new_site(servers))
        make_topics(site)
        address = Address(servers=tuple(servers.split(",")))
        return KafkaStage(url, app, fuse, shards, KAFKA_LIMITS, address=address, topics=Topics(site.prefix))

    return Story(
        acts=(
            Act(Actor.API, submit),
            Act(Actor.API, ask_once),
            Act(Actor.PUMP, pump),
            Act(Actor.API, ask_natively),
            Act(Actor.PUMP, pump),
            Act(Actor.WORKER, partial(work, steps=STEPS, then=Worker.stop)),
            Act(Actor.API, read),
            Act(Actor.PUMP, relay),
            Act(Actor.API, ask_again),
            Act(Actor.PUMP, pump),
            Act(Actor.SCHEDULER, partial(sweep, after_ms=KAFKA_LIMITS.reservation_ms, until="lapsed")),
        ),
        limits=KAFKA_LIMITS,
        epilogue=(
            Act(Actor.SCHEDULER, partial(sweep, after_ms=KAFKA_LIMITS.retention_ms, until="purged")),
            Act(Actor.PUMP, pump),
        ),
        open=opened,
        check=_check,
    )
