"""The pump's process between a real broker and a real store: native clients from request to result, and what it may be cut off from."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from headrace.cursor import GENERATION_EPOCHS
from headrace.kafka.log_record import LogRecord
from headrace.kafka.record import encode_accepted
from headrace.keys import key_line
from headrace.queues.redis import RedisQueue
from headrace.request import Lane
from headrace.testing.bad_records import write_around_a_bad_name, write_undecodable
from headrace.testing.builders import make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.kafka import KafkaSite
from headrace.testing.pump_site import MODEL, NativeClient, PumpSite, native_value
from headrace.testing.scripted_worker import PANGRAM, ScriptedWorker
from headrace.testing.store import Store

TEXT = "".join(PANGRAM)


@pytest.fixture
def site(valkey: Store, kafka: KafkaSite, tmp_path: Path) -> PumpSite:
    return PumpSite(valkey.url, kafka, tmp_path)


@asynccontextmanager
async def working(queue: RedisQueue) -> AsyncIterator[ScriptedWorker]:
    async with ScriptedWorker(queue, model=MODEL).run() as worker:
        yield worker


async def test_requests_of_a_native_client_are_answered(site: PumpSite, queue: RedisQueue) -> None:
    ids = [f"r{i}" for i in range(100)]
    async with site.pump() as process, site.client() as client, working(queue):
        for one in ids:
            await client.ask(one)
        found = await site.answered(ids)
        began = time.monotonic()
        process.terminate()
        await process.wait()
        assert time.monotonic() - began < 5, site.said
    assert process.returncode == 0, site.said
    assert all(len(results) == 1 for results in found.values())
    result = found["r7"][0]
    assert (result["state"], result["status_code"], result["error"], result["tenant"]) == ("done", 200, None, "default")
    answer = result["response"]
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert answer["usage"]["completion_tokens"] == 11
    assert result["accepted_ms"] <= result["started_ms"] <= result["ended_ms"]
    keys = {record.key for record in await site.records(site.topics.results)} - {b"generation"}
    assert keys == {results[0]["job_id"].encode() for results in found.values()}


async def test_garbage_does_not_block_the_partition(site: PumpSite, queue: RedisQueue) -> None:
    garbage = [b"", b"\xff\x00", b"[]", b'{"id": 1}', b'{"id": "x", "body": {}, "y": 0}', None]
    async with site.pump(), site.client() as client, working(queue):
        await client.ask("before")
        for value in garbage:
            # The key decides on the partition.
            await client.write(value, key=b"before", headers=[("authorization", b"Bearer secret")])
        await client.ask("wrong", max_tokens=0)
        await client.ask("elsewhere", model="other")
        await client.ask("after")
        found = await site.answered(["before", "wrong", "elsewhere", "after"])

        async def all_dead() -> bool:
            return len(await site.records(site.topics.dead_letter)) == len(garbage)

        await eventually(all_dead, pause=0.2)
    assert found["before"][0]["state"] == found["after"][0]["state"] == "done"
    assert (found["wrong"][0]["state"], found["wrong"][0]["error"]["param"]) == ("refused", "max_tokens")
    assert (found["elsewhere"][0]["status_code"], found["elsewhere"][0]["error"]["code"]) == (404, "model_not_found")
    for record in await site.records(site.topics.dead_letter):
        headers = dict(record.headers)
        assert headers["headrace-reason"]
        assert (headers["headrace-origin"] or b"").startswith(site.topics.requests.encode())
        assert "authorization" not in headers


async def test_records_that_no_client_can_decode_do_not_block_the_partition(site: PumpSite, queue: RedisQueue) -> None:
    servers, topic = site.site.servers, site.topics.requests
    write_around_a_bad_name(servers, topic, [native_value("before"), native_value("bad"), native_value("beside")], bad=1)
    write_undecodable(servers, topic, 4)
    write_around_a_bad_name(servers, topic, [native_value("after")], bad=-1)
    async with site.pump(), working(queue):
        found = await site.answered(["before", "beside", "after"])

        async def all_dead() -> list[LogRecord]:
            records = await site.records(site.topics.dead_letter)
            return records if len(records) == 2 else []

        named, undecodable = sorted(
            await eventually(all_dead, pause=0.2), key=lambda record: dict(record.headers)["headrace-origin"] or b""
        )
    assert found.keys() == {"before", "beside", "after"}
    assert named.value == native_value("bad")
    assert dict(named.headers)["headrace-reason"] == b"The name of the header 'tr??ace' is not UTF-8."
    assert dict(named.headers)["headrace-origin"] == f"{topic}/0@1".encode()
    assert dict(undecodable.headers)["headrace-origin"] == f"{topic}/0@3".encode()
    assert (dict(undecodable.headers)["headrace-reason"] or b"").startswith(b"The offsets 3 to 6 cannot be decoded: BadGzipFile")


async def test_keys_are_asked_for_where_there_are_any(valkey: Store, kafka: KafkaSite, tmp_path: Path, queue: RedisQueue) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{key_line('hr_alice', 'alice')}\n{key_line('hr_bob', 'bob')}\n")
    site = PumpSite(valkey.url, kafka, tmp_path, HEADRACE_KEYS_FILE=str(keys))
    async with site.pump(), site.client() as client, working(queue):
        await client.ask("nobody")
        # One id of two tenants is two requests.
        await client.ask("a", headers=[("authorization", b"Bearer hr_alice")])
        await client.ask("a", headers=[("authorization", b"Bearer hr_bob")])

        async def both() -> bool:
            return len((await site.results()).get("a", [])) == 2

        await eventually(both, within=60, pause=0.3)
    assert {one["tenant"] for one in (await site.results())["a"]} == {"alice", "bob"}
    assert [dict(one.headers)["headrace-reason"] for one in await site.records(site.topics.dead_letter)] == [
        b"No API key was given: send the header 'authorization' with 'Bearer <key>'."
    ]


async def test_a_key_that_is_revoked_while_its_records_are_in_flight(
    valkey: Store, kafka: KafkaSite, tmp_path: Path, queue: RedisQueue
) -> None:
    """What was admitted under it finishes; what comes later is a dead letter, without the key."""
    keys = tmp_path / "keys"
    bob = key_line("hr_bob", "bob")
    keys.write_text(f"{key_line('hr_alice', 'alice')}\n{bob}\n")
    site = PumpSite(valkey.url, kafka, tmp_path, HEADRACE_KEYS_FILE=str(keys))
    asked: list[str] = []

    async with site.pump(), site.client() as client:

        async def ask() -> None:
            asked.append(f"r{len(asked)}")
            await client.ask(asked[-1], headers=[("authorization", b"Bearer hr_alice")])

        async def admitted() -> bool:
            return site.committed() == 1

        async def buried() -> bool:
            await ask()
            return bool(await site.records(site.topics.dead_letter))

        await ask()
        await eventually(admitted, within=60, pause=0.3)
        keys.write_text(f"{bob}\n")
        await eventually(buried, within=60, pause=0.3)
        async with working(queue):

            async def all_told() -> bool:
                return len(await site.results()) + len(await site.records(site.topics.dead_letter)) == len(asked)

            await eventually(all_told, within=60, pause=0.3)
    results, letters = await site.results(), await site.records(site.topics.dead_letter)
    assert "r0" in results
    assert {(one["state"], one["tenant"]) for found in results.values() for one in found} == {("done", "alice")}
    assert {orjson.loads(one.value or b"")["id"] for one in letters} == set(asked) - results.keys()
    for letter in letters:
        assert dict(letter.headers)["headrace-reason"] == b"The API key is not known here."
        assert b"hr_alice" not in b"".join([letter.value or b"", *(value or b"" for _, value in letter.headers)])


async def test_doubles_are_one_job_and_another_body_is_refused(site: PumpSite, queue: RedisQueue) -> None:
    async with site.pump(), site.client() as client, working(queue):
        for _ in range(5):
            await client.ask("twin")
        await client.ask("twin", max_tokens=3)
        await client.ask("last")

        async def told() -> bool:
            found = await site.results()
            return len(found.get("twin", [])) == 2 and "last" in found

        await eventually(told, within=60, pause=0.3)
        found = await site.results()
        assert {one["state"] for one in found["twin"]} == {"done", "refused"}
        assert {one["error"]["code"] for one in found["twin"] if one["error"]} == {"idempotency_conflict"}
        assert len(await queue.list_jobs("default", after=None, limit=100)) == 2


async def test_tokens_are_told_to_whoever_asks(site: PumpSite, queue: RedisQueue) -> None:
    async with site.pump(), site.client() as client, working(queue):
        await client.ask("loud", headers=[("tokens", b"true")])
        await client.ask("quiet")
        await site.answered(["loud", "quiet"])

        async def told() -> bool:
            return any(b'"end":"done"' in (record.value or b"") for record in await site.records(site.topics.tokens))

        await eventually(told, pause=0.2)
    records = [orjson.loads(record.value or b"") for record in await site.records(site.topics.tokens)]
    assert {record["id"] for record in records} == {"loud"}
    assert "".join(record["text"] for record in records) == TEXT
    positions = [tuple(map(int, record["position"].split("-"))) for record in records]
    assert positions == sorted(set(positions))


async def test_a_result_is_in_the_trace_of_its_request(site: PumpSite, queue: RedisQueue) -> None:
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with site.pump(), site.client() as client, working(queue):
        await client.ask("traced", headers=[("traceparent", trace)])
        await client.ask("refused", max_tokens=0, headers=[("Traceparent", trace)])
        await client.ask("malformed", headers=[("traceparent", b"\xff-1")])
        await client.ask("none")
        await site.answered(["traced", "refused", "malformed", "none"])
    headers = [dict(record.headers) for record in await site.records(site.topics.results) if record.key != b"generation"]
    assert {one["id"]: one.get("traceparent") for one in headers} == {
        b"traced": trace,
        b"refused": trace,
        b"malformed": None,
        b"none": None,
    }


async def test_what_the_api_has_accepted_and_not_admitted_runs(site: PumpSite, queue: RedisQueue) -> None:
    submission = make_submission(make_request(model=MODEL, prompt_ids=(0, 1)), key="k")
    await queue.reserve(submission)
    async with site.pump(), site.client() as client, working(queue):
        await client.write_accepted(submission.request.id.encode(), encode_accepted(submission))
        await client.write_accepted(b"junk", b"junk")
        found = await site.answered([submission.request.id])
    assert found[submission.request.id][0]["state"] == "done"


async def test_lines_of_batches_are_not_told(site: PumpSite, queue: RedisQueue) -> None:
    line = make_request(model=MODEL, lane=Lane.BATCH)
    await queue.accept(make_submission(line))
    async with site.pump(), site.client() as client, working(queue):
        await client.ask("native", headers=[("priority", b"batch")])
        found = await site.answered(["native"])

        async def done() -> bool:
            return (await queue.get("default", line.id)).ended_ms is not None

        await eventually(done, pause=0.1)
    assert found.keys() == {"native"}


async def test_a_full_queue_has_records_wait(valkey: Store, kafka: KafkaSite, tmp_path: Path, queue: RedisQueue) -> None:
    site = PumpSite(valkey.url, kafka, tmp_path, HEADRACE_MAX_LIVE_JOBS="5")
    ids = [f"r{i}" for i in range(30)]
    async with site.pump(), site.client() as client:
        for one in ids:
            await client.ask(one)

        async def full() -> bool:
            return len(await queue.list_jobs("default", after=None, limit=100)) == 5

        await eventually(full, within=30, pause=0.1)
        async with working(queue):
            found = await site.answered(ids, within=90)
    assert all(len(results) == 1 and results[0]["state"] == "done" for results in found.values())


async def test_killed_pumps_lose_nothing_and_run_nothing_twice(site: PumpSite, queue: RedisQueue) -> None:
    """Killed in the moment in which records are admitted, results written, and the commit and the cursor lag behind."""
    ids: list[str] = []
    delivered_again = 0
    async with site.client() as client, working(queue):
        for life in range(4):
            async with site.pump() as process:
                await site.reads()
                for i in range(40):
                    ids.append(f"r{life}-{i}")
                    await client.ask(ids[-1])

                async def admitted(most: int = len(ids) - 10) -> bool:
                    return len(await queue.list_jobs("default", after=None, limit=1_000)) > most

                await eventually(admitted, within=30)
                process.kill()
                await process.wait()
                delivered_again += len(await queue.list_jobs("default", after=None, limit=1_000)) - site.committed()
        async with site.pump():
            found = await site.answered(ids, within=90)
    assert delivered_again > 0, "no kill fell between admission and commit"
    for results in found.values():
        assert len({str(one) for one in results}) == 1, "an end was told twice, differently"
    jobs = await queue.list_jobs("default", after=None, limit=1_000)
    assert len(jobs) == len(ids)
    assert all(job.epoch % GENERATION_EPOCHS == 1 for job in jobs), "some job was leased twice"


async def test_pumps_share_the_log_while_they_come_and_go(site: PumpSite, queue: RedisQueue) -> None:
    ids: list[str] = []

    async def ask(client: NativeClient, count: int) -> None:
        for _ in range(count):
            ids.append(f"r{len(ids)}")
            await client.ask(ids[-1])

    async with site.client() as client, working(queue), site.pump() as first:
        await site.reads()
        await ask(client, 50)
        async with site.pump():
            # Its joining takes partitions from the first one in the midst of all this.
            for _ in range(40):
                await ask(client, 5)
                await asyncio.sleep(0.15)
            first.kill()
            await ask(client, 50)
            found = await site.answered(ids, within=60)
    assert all(len({str(one) for one in results}) == 1 for results in found.values())
    jobs = await queue.list_jobs("default", after=None, limit=1_000)
    assert len(jobs) == len(ids) == 300
    assert all(job.epoch % GENERATION_EPOCHS == 1 for job in jobs)
