"""The pump on a store and a log in memory. A record at which it raises would come again, to every pump there is."""

import asyncio
from collections.abc import Sequence

import orjson
import pytest

from headrace.errors import ModelUnavailable, RequestTooLarge
from headrace.kafka.log_record import SUBSTITUTE, UNREADABLE, LogRecord
from headrace.kafka.record import encode_accepted
from headrace.kafka.topics import MAX_RECORD_BYTES, Topics
from headrace.kafka.window import Partition
from headrace.ports import Accepted, Submission
from headrace.queues.rules import QueueLimits
from headrace.testing.bench import MemoryBench
from headrace.testing.eventually import eventually
from headrace.testing.words import WordPrompter
from headrace.wire.prompter import Prompter
from scheduler.kafka.pump import TRIES, Pump, Rules

TOPICS = Topics("t")
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Log:
    """Takes what a broker takes."""

    def __init__(self) -> None:
        self.written: list[tuple[str, bytes, dict[str, bytes]]] = []

    async def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        if len(key or b"") + len(value or b"") + sum(len(name.encode()) + len(what) for name, what in headers) > MAX_RECORD_BYTES:
            raise RequestTooLarge("too large")
        self.written.append((topic, value or b"", dict(headers)))

    @property
    def reasons(self) -> list[str]:
        return [headers["headrace-reason"].decode() for topic, _, headers in self.written if topic == TOPICS.dead_letter]


class Site:
    def __init__(self, limits: QueueLimits = QueueLimits()) -> None:  # noqa: B008 - it is frozen
        self.bench = MemoryBench(limits)
        self.log = Log()
        self.loads = True
        self.fails: Exception | None = None
        """What looking at a prompt raises."""
        self.asked = 0
        """How often for the model."""
        self.pump = Pump(
            self.log,
            intake=self.bench.queue,
            outbox=None,  # type: ignore[arg-type]  # of requests that want more than an answer
            prompters=self.prompters,
            rules=Rules(topics=TOPICS, shards=1, longest_ms=60_000, tenant_of=None),
            now_ms=lambda: self.bench.now_ms,
            counted=lambda outcome: None,
        )

    def prompters(self, model: str) -> Prompter:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        if not self.loads:
            raise ModelUnavailable(f"{model} is not there yet")
        return WordPrompter()

    def record(self, value: object, *headers: tuple[str, bytes | None], topic: str = TOPICS.requests) -> LogRecord:
        raw = value if isinstance(value, bytes) else orjson.dumps(value)
        return LogRecord(partition=Partition(topic, 0), offset=0, timestamp_ms=self.bench.now_ms, key=None, value=raw, headers=headers)


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize(
    "header",
    [
        (UNREADABLE, b"\xff\xfe"),
        (UNREADABLE, None),
        (UNREADABLE, b"\xff" * (MAX_RECORD_BYTES - 1_000)),
        (SUBSTITUTE + "x" * (MAX_RECORD_BYTES - 1_000), b""),
        (SUBSTITUTE + "\0" * (MAX_RECORD_BYTES // 2), b""),
    ],
    ids=[
        "our own sign, no UTF-8",
        "our own sign, no value",
        "our own sign, as large as may be",
        "a large name",
        "a name that is larger in words",
    ],
)
async def test_headers_of_any_kind_and_size_are_a_dead_letter(
    site: Site, header: tuple[str, bytes | None], caplog: pytest.LogCaptureFixture
) -> None:
    assert await site.pump.take(site.record({"id": "a", "body": BODY}, header)) == "dead_letter"
    assert len(site.log.reasons) == 1
    assert all(len(line.getMessage()) < 2_000 for line in caplog.records)


async def test_an_accepted_request_of_a_shard_that_is_no_more_is_a_dead_letter(site: Site) -> None:
    elsewhere = site.bench.submission(shard=3)
    record = site.record(encode_accepted(elsewhere), topic=TOPICS.accepted)
    assert await site.pump.take(record) == "dead_letter"
    assert elsewhere.request.id in site.log.reasons[0]
    here = site.bench.submission()
    assert await site.pump.take(site.record(encode_accepted(here), topic=TOPICS.accepted)) == "admitted"


async def test_what_waits_for_room_is_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.kafka.pump.LONGEST_WAIT_S", 0.001)
    site = Site(QueueLimits(max_live_jobs=1))
    first = site.bench.submission()
    assert await site.pump.take(site.record(encode_accepted(first), topic=TOPICS.accepted)) == "admitted"
    others = [site.record(encode_accepted(site.bench.submission()), topic=TOPICS.accepted) for _ in range(3)]
    waiting = [asyncio.create_task(site.pump.take(record)) for record in others]

    async def told() -> bool:
        return bool(caplog.records)

    await eventually(told)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    [line] = caplog.records
    assert line.getMessage().startswith("records wait: ")
    assert "limit is 1" in line.getMessage()


async def test_an_outage_is_told_once_while_others_pass(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.kafka.pump.RETRY_S", 0.001)
    site.loads = False
    waiting = asyncio.create_task(site.pump.take(site.record({"id": "a", "body": BODY})))

    async def asked_often() -> bool:
        accepted = site.record(encode_accepted(site.bench.submission()), topic=TOPICS.accepted)
        assert await site.pump.take(accepted) == "admitted"
        return site.asked > 10

    await eventually(asked_often)
    site.loads = True
    assert await waiting == "admitted"
    assert [line.getMessage() for line in caplog.records] == ["records wait: m is not there yet"]
    site.loads = False
    again = asyncio.create_task(site.pump.take(site.record({"id": "b", "body": BODY})))

    async def told_again() -> bool:
        return len(caplog.records) == 2

    await eventually(told_again)
    site.loads = True
    await again


async def test_what_nobody_has_foreseen_of_a_native_record_is_a_dead_letter(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.kafka.pump.RETRY_S", 0.001)
    site.fails = ZeroDivisionError("nobody has thought of this")
    assert [await site.pump.take(site.record({"id": name, "body": BODY})) for name in "ab"] == ["dead_letter"] * 2
    assert site.log.reasons == ["could not be processed: ZeroDivisionError"] * 2
    assert site.asked == 2 * TRIES
    assert [line.exc_info is not None and line.exc_info[1] is site.fails for line in caplog.records if line.exc_info] == [True]
    site.fails = None
    assert await site.pump.take(site.record({"id": "c", "body": BODY})) == "admitted"


async def test_what_passes_costs_no_record(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.kafka.pump.RETRY_S", 0.001)
    site.fails = ZeroDivisionError()
    taking = asyncio.create_task(site.pump.take(site.record({"id": "a", "body": BODY})))

    async def asked() -> bool:
        return site.asked == 1

    await eventually(asked)
    site.fails = None
    assert await taking == "admitted"
    assert site.log.written == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()], ids=["disk", "memory"])
async def test_what_is_not_the_records_fault_costs_no_record(site: Site, error: Exception) -> None:
    site.fails = error
    with pytest.raises(type(error)):
        await site.pump.take(site.record({"id": "a", "body": BODY}))
    assert site.log.written == []


async def test_what_nobody_has_foreseen_of_a_promise_ends_the_pump_and_costs_no_record(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a store that fails in a way of its own."""

    async def admit(submission: Submission) -> Accepted:
        raise ZeroDivisionError

    monkeypatch.setattr(site.bench.queue, "admit", admit)
    accepted = site.record(encode_accepted(site.bench.submission()), topic=TOPICS.accepted)
    for record in (accepted, site.record({"id": "a", "body": BODY})):
        with pytest.raises(ZeroDivisionError):
            await site.pump.take(record)
    assert site.log.written == []


async def test_a_flood_of_dead_letters_is_one_line(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        assert await site.pump.take(site.record(b"not JSON")) == "dead_letter"
    assert len(site.log.reasons) == 100
    [line] = caplog.records
    assert line.getMessage().startswith("records become dead letters count=1, the last is t.requests/0@0: ")
