"""Batches that are fed from a topic and answered to one: the same files as ever, and every line's result in the topic."""

import asyncio
from functools import partial
from typing import Any

import orjson
import pytest

from headrace.batch import Batch, BatchStatus, NewBatch, Span, TopicRange
from headrace.files.journal import Journal
from headrace.ids import made_file_id, new_batch_id
from headrace.request import Endpoint
from headrace.testing.cut import Cut, Killed
from headrace.testing.memory_topics import MemoryTopics, record
from scheduler.batches.hold import LEASE_MS
from scheduler.batches.lines import Index
from scheduler.batches.rest import LONG_S, REST_S
from scheduler.batches.topic_output import PAGE, PATIENCE_MS
from tests.integration.clerk.site import LINES, TENANT, WINDOW_MS, Site, check_complete, line, overtake, turns

IN, OUT = "alice.in", "alice.out"


def values(*numbers: int, **body: Any) -> list[bytes]:
    return [line(number, **body).rstrip() for number in numbers]


async def create(site: Site, *spans: tuple[int, int], output: str | None = OUT, window_ms: int = WINDOW_MS) -> str:
    """A batch of IN, all of it unless `spans` say what of each partition."""
    if not spans:
        spans = tuple((one.start, one.end) for one in (await site.topics.bounds(IN)).values())
    wanted = tuple(Span(partition=number, start=start, end=end) for number, (start, end) in enumerate(spans))
    batch_id = new_batch_id()
    new = NewBatch(
        id=batch_id,
        tenant=TENANT,
        endpoint=Endpoint.CHAT,
        input_file_id=made_file_id(batch_id, "input"),
        input_topic=TopicRange(topic=IN, spans=wanted),
        output_topic=output,
    )
    await site.registries.create(new, window_ms=window_ms)
    return batch_id


def check_told(site: Site, batch: Batch, *, most: int) -> None:
    """Every line of both files is in OUT, up to `most` times, each time the same; in order, where it is there once."""
    found: dict[int, set[tuple[bytes | None, bytes, str]]] = {}
    told = site.topics.told[OUT]
    for one in told:
        assert one.headers["headrace-batch"] == batch.new.id
        assert one.headers["headrace-lines"] == str(batch.progress.total)
        found.setdefault(int(one.headers["headrace-line"]), set()).add((one.key, one.value, one.headers["headrace-file"]))
    assert sorted(found) == list(range(1, batch.progress.total + 1))
    assert all(len(same) == 1 for same in found.values())
    assert len(told) <= most
    by_file: dict[str, list[Any]] = {"output": [], "errors": []}
    for number in sorted(found):
        [(key, value, role)] = found[number]
        by_file[role].append(orjson.loads(value))
        assert key == by_file[role][-1]["custom_id"].encode()
    assert by_file["output"] == site.content(batch.output_file_id)
    assert by_file["errors"] == site.content(batch.error_file_id)


async def test_all_of_a_topic(site: Site) -> None:
    site.topics.fill(IN, values(0, 1, 2), values(3, 4), [])
    site.topics.told[OUT] = []
    batch = await site.finish(await create(site))
    check_complete(site, batch)
    check_told(site, batch, most=LINES)
    assert [one.headers["headrace-line"] for one in site.topics.told[OUT]] == ["1", "2", "3", "4", "5"]
    record = await site.registries.files.get(TENANT, batch.new.input_file_id)
    assert (record.filename, record.batch_id) == (f"{batch.new.id}_input.jsonl", None)
    assert [one["custom_id"] for one in site.content(record.id)] == [f"line-{number}" for number in range(LINES)]


async def test_a_part_of_it_and_no_output_topic(site: Site) -> None:
    site.topics.fill(IN, [b"{", *values(0, 1, 2), b"{"], [*values(3, 4), b"{"], [b"{"])
    batch = await site.finish(await create(site, (1, 4), (0, 2), (1, 1), output=None))
    check_complete(site, batch)


async def test_a_file_may_be_answered_to_a_topic(site: Site) -> None:
    site.topics.told[OUT] = []
    batch = await site.finish(await site.create(line(0) + line(1, max_tokens=13) + b"\n" + line(2), output_topic=OUT))
    check_told(site, batch, most=3)
    assert [one.headers["headrace-file"] for one in site.topics.told[OUT]] == ["output", "errors", "output"]


async def test_json_in_several_lines_and_records_without_a_request(site: Site) -> None:
    pretty = orjson.dumps(orjson.loads(line(1)), option=orjson.OPT_INDENT_2)
    site.topics.fill(IN, [*values(0), None, b"", b" \n ", pretty.replace(b"\n", b"\r\n") + b"\n"])
    batch = await site.finish(await create(site, output=None))
    check_complete(site, batch, lines=2)


async def test_bad_records_are_bad_lines_with_their_places(site: Site) -> None:
    site.topics.first = 100
    torn = values(9)[0].replace(b"line 9", b"line\n9")
    site.topics.fill(IN, [*values(0), None, b"{", torn], [*values(0), b"\xff"])
    site.topics.topics[IN][1].insert(1, record(IN, 1, 101, None, unreadable="The offsets 101 to 107 cannot be decoded: bad."))
    site.topics.told[OUT] = []
    batch = await site.finish(await create(site, (100, 104), (100, 102)))
    assert batch.status is BatchStatus.FAILED
    assert [(fault.line, fault.code, fault.message.partition(": ")[0]) for fault in batch.faults] == [
        (2, "invalid_json_line", "alice.in/0@102"),
        (3, "invalid_json_line", "alice.in/0@103"),
        (4, "duplicate_custom_id", "alice.in/1@100"),
        (5, "unreadable_record", "alice.in/1@101"),
        (6, "invalid_json_line", "alice.in/1@101"),
    ]
    assert not site.topics.told[OUT]
    assert not site.queue.outbox


async def test_what_is_deleted_is_said_in_numbers(site: Site) -> None:
    site.topics.fill(IN, values(0, 1, 2, 3))
    batch_id = await create(site)
    del site.topics.topics[IN][0][:2]
    batch = await site.finish(batch_id)
    assert batch.status is BatchStatus.FAILED
    [fault] = batch.faults
    assert (fault.code, fault.param, fault.line) == ("range_deleted", "input_topic", None)
    assert fault.message == "alice.in/0: the offsets 0 to 1 are deleted."


@pytest.mark.parametrize(("many", "code"), [(values(*range(101)), "too_many_lines"), ([b"x" * 20_000] * 60, "file_too_large")])
async def test_a_range_that_is_too_large_is_not_copied_whole(site: Site, many: list[bytes], code: str) -> None:
    site.topics.fill(IN, many, values(200))
    batch = await site.finish(await create(site))
    assert [(fault.code, fault.line) for fault in batch.faults] == [(code, None)]
    assert list(site.root.glob("scratch/*")) == []
    assert list(site.root.glob("blobs/*")) == []


async def test_without_kafka_it_waits(site: Site) -> None:
    site.topics.fill(IN, values(0))
    site.topics.told[OUT] = []
    batch_id = await create(site)
    site.topics.down = True
    await turns(site, batch_id, 1)
    assert (await site.batch(batch_id)).status is BatchStatus.VALIDATING
    assert list(site.root.glob("scratch/*")) == []
    assert await site.registries.batches.stalled() == 1
    site.topics.down = False
    check_told(site, await site.finish(batch_id), most=1)
    assert await site.registries.batches.stalled() == 0


async def test_who_has_waited_for_brokers_leaves_them_alone_for_a_while(site: Site) -> None:
    """A clerk has one batch at a time: it must not wait once for each of those that cannot go on."""
    site.topics.fill(IN, values(0))
    site.topics.told[OUT] = []
    batches = [await create(site) for _ in range(3)]
    site.topics.down = True
    site.topics.waited = partial(site.registries.advance, int(LONG_S * 1_000))
    for batch_id in batches:
        await site.work(batch_id, Cut())
    assert site.topics.asked == 1
    await site.registries.advance(int(REST_S * 1_000))
    await site.work(batches[0], Cut())
    assert site.topics.asked == 2
    site.topics.down = False
    for batch_id in batches:
        assert (await site.finish(batch_id)).status is BatchStatus.COMPLETED
    assert sorted(one.headers["headrace-batch"] for one in site.topics.told[OUT]) == sorted(batches)


async def test_a_topic_that_is_missing_keeps_nobody_from_the_others(site: Site) -> None:
    site.topics.fill(IN, values(0))
    batches = [await create(site) for _ in range(3)]
    site.topics.down = True
    site.topics.waited = partial(site.registries.advance, int(LONG_S * 1_000) - 1)
    for batch_id in batches:
        await site.work(batch_id, Cut())
    assert site.topics.asked == 3


@pytest.mark.parametrize("status", [BatchStatus.VALIDATING, BatchStatus.FINALIZING])
async def test_who_waits_for_brokers_is_stopped_at_once(site: Site, status: BatchStatus) -> None:
    site.topics.fill(IN, values(0))
    site.topics.told[OUT] = []
    batch_id = await create(site) if status is BatchStatus.VALIDATING else await site.create(line(0), output_topic=OUT)
    waits = asyncio.Event()

    async def for_ever() -> None:
        waits.set()
        await asyncio.Future()

    site.topics.waited = for_ever
    site.topics.down = True
    clerk = asyncio.create_task(site.work(batch_id, Cut()))
    await asyncio.wait_for(waits.wait(), 20)
    site.stop.set()
    await asyncio.wait_for(clerk, 5)
    assert (await site.batch(batch_id)).status is status
    assert list(site.root.glob("scratch/*")) == []
    assert await site.registries.batches.dispatch(10, 1_000) == [batch_id], "it is due at once, as it does not wait for Kafka"
    site.topics.down = False
    site.stop = asyncio.Event()
    check_told(site, await site.finish(batch_id), most=1)


async def test_the_files_do_not_wait_for_the_topic(site: Site) -> None:
    batch_id = await site.create(b"".join(line(number) for number in range(3)), output_topic=OUT)

    async def look() -> Batch:
        await site.registries.advance(LEASE_MS + 1)
        await site.work(batch_id, Cut())
        return await site.batch(batch_id)

    while (batch := await look()).status is not BatchStatus.FINALIZING:
        pass
    assert len(site.content(batch.output_file_id)) == 3
    made = (site.root / "blobs" / (batch.output_file_id or "")).stat().st_ino
    assert (await look()).status is BatchStatus.FINALIZING
    assert await site.registries.batches.stalled() == 1
    site.topics.told[OUT] = []
    batch = await look()
    assert await site.registries.batches.stalled() == 0
    check_told(site, batch, most=3)
    assert batch.status is BatchStatus.COMPLETED
    assert (site.root / "blobs" / (batch.output_file_id or "")).stat().st_ino == made


async def test_a_topic_that_never_takes_anything_is_given_up(site: Site) -> None:
    batch_id = await site.create(line(0), output_topic=OUT)
    while (await site.batch(batch_id)).status is not BatchStatus.FINALIZING:
        await site.work(batch_id, Cut())
    await site.registries.advance(PATIENCE_MS - 2)
    await site.work(batch_id, Cut())
    assert (await site.batch(batch_id)).status is BatchStatus.FINALIZING
    await site.registries.advance(2)
    batch = await site.finish(batch_id)
    assert batch.status is BatchStatus.COMPLETED
    assert len(site.content(batch.output_file_id)) == 1
    [fault] = batch.faults
    assert fault.code == "output_topic_unavailable"
    assert fault.message.startswith(f"The topic {OUT} has the results of 0 of 1 lines: it has no topic {OUT}.")


async def test_a_result_that_is_too_large_says_where_it_is(site: Site) -> None:
    site.topics.told[OUT] = []
    site.topics.largest = 400
    batch = await site.finish(await site.create(line(0), output_topic=OUT))
    [told] = site.topics.told[OUT]
    [whole] = site.content(batch.output_file_id)
    value = orjson.loads(told.value)
    assert (value["custom_id"], value["id"], value["response"], value["error"]["code"]) == ("line-0", whole["id"], None, "result_too_large")
    assert told.headers["headrace-file"] == "output"


async def test_a_cancelled_batch_tells_every_line(site: Site) -> None:
    site.pace.hold()
    site.topics.fill(IN, values(0, 1, 2))
    site.topics.told[OUT] = []
    batch_id = await create(site)
    await turns(site, batch_id, 2)
    await site.registries.batches.cancel(TENANT, batch_id)
    batch = await site.finish(batch_id)
    assert batch.status is BatchStatus.CANCELLED
    check_told(site, batch, most=3)
    assert {orjson.loads(one.value)["error"]["code"] for one in site.topics.told[OUT]} == {"batch_cancelled"}


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
async def test_killed_at_every_call_nothing_is_missing(site: Site, monkeypatch: pytest.MonkeyPatch, behind: bool) -> None:
    """The first clerk dies at call k, whichever k; the next one leaves the same files, and no result told more than twice."""
    monkeypatch.setattr("scheduler.batches.topic_output.PAGE", 2)
    written, saved, taken = Journal.append, Index.save, MemoryTopics.take
    site.topics.fill(IN, values(0, 1, 2), values(3, 4))
    k, told_twice = 0, 0
    while True:
        k += 1
        cut = Cut(k, behind=behind)
        site.topics.told[OUT] = []
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", cut.watch_function(written))
            patch.setattr(Index, "save", cut.watch_function(saved))
            patch.setattr(MemoryTopics, "take", cut.watch_function(taken))
            batch_id = await create(site)
            try:
                await site.work(batch_id, cut)
            except Killed:
                died = True
            else:
                died = False
        await site.registries.advance(LEASE_MS + 1)
        await site.sweep()  # takes nothing that the next clerk needs
        batch = await site.finish(batch_id)
        check_complete(site, batch)
        check_told(site, batch, most=LINES + 2)
        told_twice += len(site.topics.told[OUT]) - LINES
        if not died:
            break
    assert k > 25, "the enumeration has hardly begun: are the calls still watched?"
    assert told_twice, "no death between a page and its checkpoint: are the calls still watched?"


async def test_two_clerks_at_once_do_the_work_of_one(site: Site) -> None:
    """One is stopped for longer than its lease, in front of every call in turn, and goes on when another one has done all the work."""
    site.topics.fill(IN, values(0, 1, 2), values(3, 4))
    for k in range(1, 200):
        site.topics.told[OUT] = []
        batch, was_stopped = await overtake(site, await create(site), k)
        check_complete(site, batch)
        check_told(site, batch, most=LINES + PAGE)
        if not was_stopped:
            return
    raise AssertionError("the enumeration has not come to its end")


async def test_more_than_a_page(site: Site) -> None:
    count = PAGE + 3
    site.topics.fill(IN, values(*range(count)))
    site.topics.told[OUT] = []
    batch = await site.finish(await create(site))
    check_told(site, batch, most=count)
    assert batch.progress.told == count
