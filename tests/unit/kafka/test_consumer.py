"""Which topic it is that is read, and joins that the client forgets: on a real broker one cannot choose when a client learns of what."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

import headrace.kafka.consumer as consuming
from headrace.kafka.consumer import LogConsumer
from headrace.kafka.log_record import LogRecord

TOPIC = "t"
PLACE = TopicPartition(TOPIC, 0)
OLD, NEW = UUID(int=1), UUID(int=2)


class Client:
    """A consumer of one partition. Of `turns` one happens within each poll; what it returns are the offsets of records that came."""

    def __init__(self, *turns: Callable[["Client"], Sequence[int] | None]) -> None:
        self.id: UUID | None = OLD
        self.answers = True
        self.end = 0
        """As brokers tell it that are asked for it."""
        self.fetched: int | None = None
        """The same, as it came with a fetch."""
        self.at = 0
        self.polls = 0
        self.begun: list[int] = []
        """How many polls there had been whenever it went back to the beginning."""
        self.joining = False
        self.joins_wanted = 0
        self.over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._turns = iter(turns)
        self._listener: Any = None
        self._ours: set[TopicPartition] = set()

    def assign(self) -> None:
        self._ours = {PLACE}
        _finish(self._listener.on_partitions_assigned([PLACE]))

    def revoke(self) -> None:
        self._ours = set()
        _finish(self._listener.on_partitions_revoked([PLACE]))

    # As kafka-python has it

    @property
    def _cluster(self) -> "Client":
        return self

    def topic_id(self, _: str) -> UUID | None:
        return self.id

    def partitions_for_topic(self, _: str) -> set[int] | None:
        return None if self.id is None else {0}

    @property
    def _coordinator(self) -> "Client":
        return self

    def rebalance_in_progress(self) -> bool:
        return self.joining

    def request_rejoin(self) -> None:
        self.joins_wanted += 1

    def subscribe(self, *, topics: Sequence[str], listener: Any) -> None:
        self._listener = listener

    def poll(self, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Any]]:
        turn = next(self._turns, None)
        if turn is None:
            self._loop.call_soon_threadsafe(self.over.set)
            return {}
        offsets = turn(self) or ()
        self.polls += 1
        self.at = max([self.at, *(offset + 1 for offset in offsets)])
        return {PLACE: [_raw(offset) for offset in offsets]}

    def assignment(self) -> set[TopicPartition]:
        return set(self._ours)

    def paused(self) -> set[TopicPartition]:
        return set()

    def seek_to_beginning(self, *places: TopicPartition) -> None:
        assert set(places) <= self._ours, "it refuses what is not its own"
        self.begun.append(self.polls)
        self.at = 0

    def end_offsets(self, places: Collection[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        if not self.answers:
            raise KafkaTimeoutError
        return dict.fromkeys(places, self.end)

    def position(self, _: object, timeout_ms: int) -> int:
        return self.at

    def highwater(self, _: object) -> int | None:
        return self.fetched

    async def commit_async(self, _: object) -> None: ...

    def close(self, **_: Any) -> None: ...


def _finish(told: Coroutine[Any, Any, None]) -> None:
    """On the client's own thread, which has no loop."""
    with pytest.raises(StopIteration):
        told.send(None)


def _raw(offset: int) -> Any:
    return SimpleNamespace(topic=TOPIC, partition=0, offset=offset, timestamp=0, key=None, value=b"", headers=())


def nothing(_: Client) -> None: ...


def assigned(client: Client) -> None:
    client.assign()


def revoked(client: Client) -> None:
    client.revoke()


def made_again(client: Client) -> None:
    client.id = NEW


def missing(client: Client) -> None:
    client.id = None


def unanswered(client: Client) -> None:
    client.answers = False


def comes(*offsets: int) -> Callable[[Client], Sequence[int]]:
    return lambda _: offsets


def ends(end: int, fetched: int | None) -> Callable[[Client], None]:
    def say(client: Client) -> None:
        client.end, client.fetched = end, fetched

    return say


async def read(monkeypatch: pytest.MonkeyPatch, *turns: Callable[[Client], Sequence[int] | None]) -> tuple[Client, list[int]]:
    """The client after its turns, and the offsets that were delivered; none of them is done."""
    monkeypatch.setattr(consuming, "LOOK_S", 0.0)
    client = Client(*turns)
    monkeypatch.setattr(consuming, "open_consumer", lambda **_: client)
    found: list[LogRecord] = []
    async with LogConsumer({}, topics=[TOPIC], group="g") as member:
        await asyncio.wait_for(client.over.wait(), 20)
    while not member._batches.empty():
        found += await member.batch()
    return client, [record.offset for record in found]


async def test_it_is_noted_before_what_comes_next_whatever_brokers_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that is made again has the offsets of the old one, which were delivered."""
    client, found = await read(monkeypatch, unanswered, assigned, comes(0, 1, 2), made_again, comes(0, 1), comes(2, 3))
    assert client.begun == [4]
    assert found == [0, 1, 2, 0, 1, 2, 3]


async def test_it_is_kept_until_the_partitions_are_ours_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = (revoked, missing, nothing, made_again, nothing, nothing)
    client, found = await read(monkeypatch, assigned, comes(0, 1, 2), *gone, assigned, comes(0, 1), nothing)
    assert client.begun == [9]
    assert found == [0, 1, 2, 0, 1]


async def test_one_that_was_only_away_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def there(client: Client) -> None:
        client.id = OLD

    client, found = await read(monkeypatch, assigned, comes(0, 1), revoked, missing, there, assigned, comes(2))
    assert client.begun == []
    assert found == [0, 1, 2]


async def test_an_end_that_no_fetch_has_told_makes_nothing_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some brokers count wrong where they are asked for ends alone."""
    client, found = await read(monkeypatch, assigned, comes(0, 1, 2), ends(0, None), nothing, ends(0, 4), comes(3))
    assert client.begun == []
    assert found == [0, 1, 2, 3]


async def test_an_end_before_where_we_are_is_another_topic_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every broker tells topics apart."""
    client, found = await read(monkeypatch, assigned, comes(0, 1, 2), ends(2, 2), comes(0, 1))
    assert client.begun == [3]
    assert found == [0, 1, 2, 0, 1]


async def test_a_join_that_is_under_way_is_seen_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def joins(client: Client) -> None:
        client.joining = True

    def joined(client: Client) -> None:
        client.joining = False

    still, _ = await read(monkeypatch, assigned, nothing, joins, joined, nothing)
    assert still.joins_wanted == 1
    forgotten, _ = await read(monkeypatch, assigned, joins, nothing, nothing)
    assert forgotten.joins_wanted >= 3
