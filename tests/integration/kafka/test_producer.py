"""Appending, to brokers that are there, that are not, that die, and that keep silent."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import LogUnavailable, RequestTooLarge
from headrace.kafka.address import Address, address_of
from headrace.kafka.producer import ANSWER_S, LogProducer
from headrace.kafka.topics import MAX_RECORD_BYTES, Shape, create
from headrace.testing.eventually import eventually
from headrace.testing.kafka import KafkaSite, Tansu, read_all, tansu
from headrace.testing.proxy import Proxy, proxy_to
from headrace.testing.tree import free_port

TOPIC = "test.accepted"
TIMEOUT_S = 2.0
QUICK_S = 0.2


def at(servers: str) -> Address:
    return Address(servers=(servers,))


def make_topic(servers: str, name: str = TOPIC) -> None:
    shape = Shape(name=name, partitions=2, replicas=1, configs={"max.message.bytes": str(MAX_RECORD_BYTES)})
    create(at(servers), [shape])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Tansu]:
    with tansu(tmp_path / "tansu.log") as one:
        make_topic(one.servers)
        yield one


@asynccontextmanager
async def producing(servers: str, topic: str = TOPIC, timeout_s: float = TIMEOUT_S, **options: Any) -> AsyncIterator[LogProducer]:
    async with LogProducer(at(servers), [topic], timeout_s=timeout_s, **options) as producer:
        yield producer
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("kafka", "producer"))]


async def is_up(producer: LogProducer) -> None:
    async def up() -> bool:
        return producer.down is None

    await eventually(up, pause=0.01)


async def goes_down(producer: LogProducer) -> None:
    async def down() -> bool:
        return producer.down is not None

    await eventually(down, pause=0.01)


async def test_what_is_acknowledged_is_there(kafka: KafkaSite) -> None:
    topic = f"{kafka.prefix}.accepted"
    make_topic(kafka.servers, topic)
    async with producing(kafka.servers, topic) as producer:
        appends = (producer.append(topic, f"{i}".encode(), b"x" * i, [("n", f"{i}".encode())]) for i in range(200))
        await asyncio.gather(*appends)
    found = {record.key: (record.value, tuple(record.headers)) for record in await asyncio.to_thread(read_all, kafka.servers, topic)}
    assert found == {f"{i}".encode(): (b"x" * i, (("n", f"{i}".encode()),)) for i in range(200)}


async def test_equal_keys_keep_their_order(kafka: KafkaSite) -> None:
    topic = f"{kafka.prefix}.accepted"
    make_topic(kafka.servers, topic)
    async with producing(kafka.servers, topic) as producer:
        await asyncio.gather(*(producer.append(topic, b"k", f"{i}".encode()) for i in range(100)))
    assert [record.value for record in await asyncio.to_thread(read_all, kafka.servers, topic)] == [f"{i}".encode() for i in range(100)]


async def test_a_large_record_passes_and_one_too_large_is_the_callers_fault(broker: Tansu) -> None:
    # Without a library for it, the checksum of so many bytes takes a second, on a processor that has nothing else to do.
    async with producing(broker.servers, timeout_s=60.0) as producer:
        await producer.append(TOPIC, b"k", b"x" * 4_000_000)
        with pytest.raises(RequestTooLarge, match="8388609 bytes"):
            await producer.append(TOPIC, b"k", b"x" * MAX_RECORD_BYTES)
        assert producer.down is None
        await producer.append(TOPIC, b"k", b"fits")


async def test_nobody_there_is_said_at_once_and_one_who_comes_later_is_found(tmp_path: Path) -> None:
    late = Tansu(tmp_path / "tansu.log")
    async with producing(late.servers) as producer:
        assert producer.down is not None
        await refuses_at_once(producer)
        late.start()
        try:
            await asyncio.to_thread(make_topic, late.servers)
            await is_up(producer)
            await producer.append(TOPIC, b"k", b"v")
        finally:
            late.kill()


async def refuses_at_once(producer: LogProducer) -> None:
    started = time.monotonic()
    with pytest.raises(LogUnavailable):
        await producer.append(TOPIC, b"k", b"v")
    assert time.monotonic() - started < QUICK_S


async def test_a_topic_that_is_missing_is_named(broker: Tansu) -> None:
    async with producing(broker.servers, "test.typo") as producer:
        with pytest.raises(LogUnavailable, match=r"no topic test\.typo; `headrace kafka init` makes them"):
            await producer.append("test.typo", b"k", b"v")


async def test_killed_it_is_noticed_without_traffic_and_found_again(broker: Tansu) -> None:
    async with producing(broker.servers) as producer:
        await producer.append(TOPIC, b"k", b"before")
        broker.kill()
        await goes_down(producer)
        await refuses_at_once(producer)
        broker.start()  # and empty: what it kept in memory is gone
        await asyncio.to_thread(make_topic, broker.servers)
        await is_up(producer)
        await producer.append(TOPIC, b"k", b"after")
        assert [record.value for record in await asyncio.to_thread(read_all, broker.servers, TOPIC)] == [b"after"]


async def test_killed_under_load_every_append_ends_in_time(broker: Tansu) -> None:
    async with producing(broker.servers) as producer:
        acknowledged, refused = 0, 0

        async def append(number: int) -> None:
            nonlocal acknowledged, refused
            try:
                await producer.append(TOPIC, f"{number}".encode(), b"v")
                acknowledged += 1
            except LogUnavailable:
                refused += 1
            if acknowledged == 50:
                broker.kill()

        started = time.monotonic()
        for number in range(0, 2_000, 20):
            await asyncio.gather(*(append(number + i) for i in range(20)))
        assert time.monotonic() - started < TIMEOUT_S + 2.0
        assert acknowledged >= 50
        assert refused > 0


async def test_paused_it_costs_no_more_than_the_timeout_and_goes_on(broker: Tansu) -> None:
    async with producing(broker.servers) as producer:
        await producer.append(TOPIC, b"k", b"before")
        broker.pause()
        try:
            started = time.monotonic()
            with pytest.raises(LogUnavailable):
                await producer.append(TOPIC, b"k", b"during")
            assert time.monotonic() - started < TIMEOUT_S + QUICK_S
            await goes_down(producer)
            await refuses_at_once(producer)
        finally:
            broker.go_on()
        await is_up(producer)
        await producer.append(TOPIC, b"k", b"after")
        values = [record.value for record in await asyncio.to_thread(read_all, broker.servers, TOPIC)]
    assert values[0] == b"before"
    assert values[-1] == b"after"


@asynccontextmanager
async def behind_a_proxy(tmp_path: Path) -> AsyncIterator[tuple[Proxy, str]]:
    """A broker that sends its clients to the proxy."""
    async with proxy_to("http://127.0.0.1:0") as proxy:
        with tansu(tmp_path / "tansu.log", advertised_port=proxy.port) as broker:
            proxy.upstream = f"http://127.0.0.1:{broker.port}"
            await asyncio.to_thread(make_topic, broker.servers)
            yield proxy, broker.servers


async def test_a_wire_that_swallows_everything(tmp_path: Path) -> None:
    async with behind_a_proxy(tmp_path) as (proxy, servers), producing(servers) as producer:
        await producer.append(TOPIC, b"k", b"before")
        proxy.silent = True
        started = time.monotonic()
        with pytest.raises(LogUnavailable):
            await producer.append(TOPIC, b"k", b"during")
        assert time.monotonic() - started < TIMEOUT_S + QUICK_S
        await goes_down(producer)
        proxy.silent = False
        await is_up(producer)
        await producer.append(TOPIC, b"k", b"after")


async def test_a_slow_wire_is_up_where_appends_have_the_time(tmp_path: Path) -> None:
    async with behind_a_proxy(tmp_path) as (proxy, servers):
        proxy.delay_s = 0.6 * ANSWER_S  # each way: nobody would answer within it
        async with LogProducer(at(servers), [TOPIC], timeout_s=30.0) as producer:
            await producer.append(TOPIC, b"k", b"slowly")
            assert producer.down is None
            proxy.delay_s = 0.0
        values = [record.value for record in await asyncio.to_thread(read_all, servers, TOPIC)]
    assert values == [b"slowly"]


async def test_lost_answers_write_nothing_twice_in_one_append(tmp_path: Path) -> None:
    """The client repeats what was not answered; its sequence numbers make one record of it."""
    async with behind_a_proxy(tmp_path) as (proxy, servers), producing(servers) as producer:
        for i in range(5):
            proxy.drop_replies = True
            pending = asyncio.ensure_future(producer.append(TOPIC, b"k", f"{i}".encode()))
            dropped = proxy.dropped

            async def lost(dropped: int = dropped) -> bool:
                return proxy.dropped > dropped

            await eventually(lost, pause=0.001)
            proxy.drop_replies = False
            outcomes = await asyncio.gather(pending, return_exceptions=True)
            assert all(outcome is None or isinstance(outcome, LogUnavailable) for outcome in outcomes)
            await is_up(producer)
        await producer.append(TOPIC, b"k", b"last")
        values = [record.value for record in await asyncio.to_thread(read_all, servers, TOPIC)]
    assert len(values) == len(set(values))
    assert values[-1] == b"last"


async def test_a_crowd_waits_for_room_and_none_is_lost(broker: Tansu) -> None:
    async with producing(broker.servers, held_bytes=10_000) as producer:
        await asyncio.gather(*(producer.append(TOPIC, f"{i}".encode(), b"x" * 3_000) for i in range(100)))
        assert len(await asyncio.to_thread(read_all, broker.servers, TOPIC)) == 100


async def test_what_is_on_its_way_is_written_before_it_closes(broker: Tansu) -> None:
    async with producing(broker.servers) as producer:
        appends = [asyncio.ensure_future(producer.append(TOPIC, f"{i}".encode(), b"v")) for i in range(50)]
        await asyncio.sleep(0)
    await asyncio.gather(*appends)
    assert len(await asyncio.to_thread(read_all, broker.servers, TOPIC)) == 50


async def test_it_closes_in_time_with_nobody_there() -> None:
    producer = LogProducer(at(f"127.0.0.1:{free_port()}"), [TOPIC], timeout_s=TIMEOUT_S)
    started = time.monotonic()
    async with producer:
        pass
    assert time.monotonic() - started < 3 * TIMEOUT_S


def test_the_address_of_a_site(kafka: KafkaSite) -> None:
    assert address_of(kafka.settings()) == at(kafka.servers)
