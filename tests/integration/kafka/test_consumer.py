"""Members of a group on a real broker: shared, paused, killed, cut off. What a broker that comes back with its records would deliver again
is not shown here: the one that tests bring along forgets them."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from headrace.kafka.address import Address
from headrace.kafka.consumer import LogConsumer
from headrace.kafka.log_record import LogRecord
from headrace.kafka.topics import Shape, create
from headrace.kafka.window import Water
from headrace.testing.eventually import eventually
from headrace.testing.kafka import KafkaSite, tansu
from headrace.testing.kafka_member import SESSION_MS
from headrace.testing.own_topics import delete_before
from headrace.testing.proxy import proxy_to

PARTITIONS = 4


class Topic:
    """A topic of the test's own, which it writes to."""

    def __init__(self, site: KafkaSite) -> None:
        self.name, self.group = f"{site.prefix}.work", f"{site.prefix}.group"
        self.servers = site.servers
        self.options = {"bootstrap_servers": site.servers.split(",")}
        self.make()
        self._producer = KafkaProducer(acks="all", **self.options)
        self._written = 0

    def make(self) -> None:
        """Without a record."""
        create(Address(servers=tuple(self.servers.split(","))), [Shape(name=self.name, partitions=PARTITIONS, replicas=-1, configs={})])
        self._written = 0

    def remove(self) -> None:
        with closing(KafkaAdminClient(**self.options)) as admin:
            admin.delete_topics([self.name])

    @property
    def values(self) -> set[str]:
        return {str(i) for i in range(self._written)}

    def write(self, count: int) -> None:
        for i in range(self._written, self._written + count):
            self._producer.send(self.name, str(i).encode(), partition=i % PARTITIONS)
        self._written += count
        self._producer.flush()

    def close(self) -> None:
        self._producer.close()

    def member(self, **options: object) -> LogConsumer:
        return LogConsumer(self.options, topics=[self.name], group=self.group, session_ms=SESSION_MS, **options)  # type: ignore[arg-type]

    def committed(self) -> int:
        """Records that the group needs no more, of all partitions."""
        places = [TopicPartition(self.name, number) for number in range(PARTITIONS)]
        with KafkaConsumer(group_id=self.group, **self.options) as looker:
            looker.assign(places)
            return sum(looker.committed(place, timeout_ms=5_000) or 0 for place in places)


@pytest.fixture
def topic(kafka: KafkaSite) -> Iterator[Topic]:
    with closing(Topic(kafka)) as topic:
        yield topic


@asynccontextmanager
async def working(member: LogConsumer, pause: float = 0.0) -> AsyncIterator[list[str]]:
    """A member that works."""
    async with member, reading(member, pause) as seen:
        yield seen


@asynccontextmanager
async def reading(member: LogConsumer, pause: float = 0.0) -> AsyncIterator[list[str]]:
    """The values that the member has worked on, `pause` seconds each, several at a time."""
    seen: list[str] = []

    async def one(record: LogRecord) -> None:
        await asyncio.sleep(pause)
        seen.append((record.value or b"").decode())
        member.done(record)

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                for record in await member.batch():
                    tasks.create_task(one(record))

    task = asyncio.ensure_future(work())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_rebalance_during_work_loses_nothing(topic: Topic) -> None:
    async with working(topic.member(), pause=0.02) as first:

        async def some() -> bool:
            topic.write(20)
            return len(first) > 50

        await eventually(some, pause=0.05)
        async with working(topic.member(), pause=0.02) as second:

            async def shared() -> bool:
                topic.write(20)
                return len(second) > 50

            await eventually(shared, within=40, pause=0.05)

            async def all_seen() -> bool:
                return set(first) | set(second) == topic.values

            await eventually(all_seen, pause=0.05)
            # Delivered twice is allowed, and stays within what was in flight when the partitions changed hands.
            assert len(first) + len(second) - len(topic.values) < 200

    async def all_committed() -> bool:
        return topic.committed() == len(topic.values)

    await eventually(all_committed, pause=0.2)


async def test_the_records_of_a_killed_member_come_to_another(topic: Topic) -> None:
    topic.write(200)
    command = ("-m", "headrace.testing.kafka_member", topic.servers, topic.name, topic.group)
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    said = [(await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip() for _ in range(50)]
    process.kill()
    said += (await process.stdout.read()).decode().split()
    await process.wait()
    killed_at = time.monotonic()
    topic.write(100)
    async with working(topic.member()) as seen:

        async def all_seen() -> bool:
            return set(said) | set(seen) == topic.values

        await eventually(all_seen, within=40, pause=0.05)
    assert time.monotonic() - killed_at < 30


async def test_a_paused_member_stays_in_the_group(topic: Topic) -> None:
    topic.write(400)
    async with topic.member(water=Water(high=10, low=2, high_bytes=1 << 20, low_bytes=1 << 10)) as member:
        held: list[LogRecord] = []

        async def full() -> bool:
            held.extend(await member.batch())
            return len(member.standing.paused) == PARTITIONS

        await eventually(full, within=30)
        topic.write(400)
        # For longer than a member may be silent.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(member.batch(), 1.5 * SESSION_MS / 1_000)
        assert member.standing.in_flight == len(held) == 400
        seen = [record.value for record in held]
        for record in held:
            member.done(record)

        async def rest() -> bool:
            for record in await member.batch():
                seen.append(record.value)
                member.done(record)
            return len(seen) >= 800

        await eventually(rest, within=30)
        assert len(seen) == len(set(seen)) == 800

    async def all_committed() -> bool:
        return topic.committed() == 800

    await eventually(all_committed, pause=0.2)


async def test_a_dead_broker_is_told_and_come_back_to(tmp_path: Path) -> None:
    with tansu(tmp_path / "tansu.log") as broker:
        site = KafkaSite(broker.servers, "mortal")
        with closing(Topic(site)) as topic:
            topic.write(10)
            async with working(topic.member()) as seen:

                async def all_seen() -> bool:
                    return set(seen) == {str(i) for i in range(10)}

                await eventually(all_seen, within=30, pause=0.05)
        member = topic.member()
        async with member:

            async def reachable() -> bool:
                return member.standing.reachable

            async def gone() -> bool:
                return not member.standing.reachable

            await eventually(reachable, within=30, pause=0.05)
            broker.kill()
            await eventually(gone, within=15, pause=0.05)
            broker.start()
            with closing(Topic(site)):
                await eventually(reachable, within=60, pause=0.05)
            broker.kill()
            began = time.monotonic()
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("written", [30, 200], ids=["fewer", "more"])
@pytest.mark.parametrize("noticed", [False, True], ids=["at once", "after a while"])
async def test_the_records_of_a_topic_that_was_made_again_are_all_read(
    topic: Topic, caplog: pytest.LogCaptureFixture, written: int, noticed: bool
) -> None:
    topic.write(100)
    async with topic.member() as member, reading(member) as seen:

        async def all_seen() -> bool:
            return set(seen) == topic.values

        await eventually(all_seen, within=30, pause=0.05)
        topic.remove()
        if noticed:

            async def told() -> bool:
                return f"the brokers have no topic {topic.name}" in caplog.text

            await eventually(told, within=20)
            assert not member.standing.reachable
        seen.clear()
        topic.make()
        topic.write(written)
        await eventually(all_seen, within=40, pause=0.05)

        async def well() -> bool:
            return member.standing.reachable

        await eventually(well, within=20)

        async def all_committed() -> bool:
            return topic.committed() == len(topic.values)

        # Before it leaves: while partitions change hands, as they do when topics come and go, brokers take no commit.
        await eventually(all_committed, within=40, pause=0.2)


@pytest.mark.apache_kafka
async def test_what_was_deleted_before_it_was_read_is_told(topic: Topic, caplog: pytest.LogCaptureFixture) -> None:
    topic.write(40)
    async with working(topic.member()) as seen:

        async def all_seen() -> bool:
            return set(seen) == topic.values

        await eventually(all_seen, within=30, pause=0.05)

        async def all_committed() -> bool:
            return topic.committed() == 40

        await eventually(all_committed, pause=0.2)
    topic.write(40)
    delete_before(KafkaSite(topic.servers, ""), topic.name, 15)
    async with working(topic.member()) as seen:

        async def rest() -> bool:
            return len(set(seen)) == 35

        await eventually(rest, within=30, pause=0.05)
    assert f"the records 10 to 14 of {topic.name}/0 were deleted before they were read" in caplog.text


async def test_a_topic_that_is_missing_is_told_and_not_made(kafka: KafkaSite, caplog: pytest.LogCaptureFixture) -> None:
    topic = f"{kafka.prefix}.missing"
    options = {"bootstrap_servers": kafka.servers.split(",")}
    async with LogConsumer(options, topics=[topic], group=f"{kafka.prefix}.group", session_ms=SESSION_MS):

        async def told() -> bool:
            return f"the brokers have no topic {topic}" in caplog.text

        await eventually(told, within=30)
    with closing(KafkaAdminClient(**options)) as admin:
        assert topic not in admin.list_topics()


async def test_an_answer_that_is_lost_while_it_joins_costs_seconds(tmp_path: Path) -> None:
    async with proxy_to("http://127.0.0.1:0") as wire:
        with tansu(tmp_path / "tansu.log", advertised_port=wire.port) as broker:
            wire.upstream = f"http://127.0.0.1:{broker.port}"
            topic = await asyncio.to_thread(Topic, KafkaSite(broker.servers, "wire"))
            try:
                await asyncio.to_thread(topic.write, 40)
                before = wire.accepted
                async with topic.member() as member, reading(member) as seen:

                    async def connected() -> bool:
                        return wire.accepted >= before + 2  # the second one to the coordinator

                    await eventually(connected, within=20, pause=0.01)
                    # Brokers hold back the answer for seconds, lest more members come.
                    await asyncio.sleep(1.0)
                    assert not member.standing.in_flight
                    assert not seen
                    wire.silent = True

                    async def swallowed() -> bool:
                        return wire.swallowed > 1

                    await eventually(swallowed, within=20)
                    wire.silent = False

                    async def all_seen() -> bool:
                        return set(seen) == topic.values

                    await eventually(all_seen, within=10 * SESSION_MS / 1_000, pause=0.05)
            finally:
                await asyncio.to_thread(topic.close)


async def test_closing_while_the_broker_is_away_takes_seconds() -> None:
    member = LogConsumer({"bootstrap_servers": ["127.0.0.1:1"]}, topics=["t"], group="g")
    member.start()
    began = time.monotonic()
    await member.aclose()
    assert time.monotonic() - began < 5
