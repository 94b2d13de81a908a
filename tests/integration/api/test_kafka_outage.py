"""The API with Kafka in front of its store, and a Kafka that is cut off, silent or killed: no false promise, and all else goes on."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.client import lines_of, parse_events
from headrace.kafka.record import decode_accepted
from headrace.kafka.topics import Topics
from headrace.ports import Submission
from headrace.queues.connect import connect_submitter
from headrace.queues.redis import RedisQueue
from headrace.settings import Settings
from headrace.testing.api_process import ApiProcess
from headrace.testing.eventually import eventually
from headrace.testing.kafka import KafkaSite, Tansu, new_site, read_all, tansu
from headrace.testing.kafka_bench import make_topics
from headrace.testing.listening import listening
from headrace.testing.proxy import Proxy, proxy_to
from headrace.testing.scripted_worker import PANGRAM, Pace, ScriptedWorker
from headrace.testing.store import Store
from headrace.testing.tiny_model import make_model
from headrace.testing.words import WordPrompter
from producer_api.app import create_app
from producer_api.archive import Archive
from producer_api.catalog import Catalog
from producer_api.server import Server

MODEL = "test-model"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
TIMEOUT_S = 1.0


@dataclass
class Site:
    """An API, its broker behind a wire, and a worker that has nothing to do with Kafka."""

    http: httpx.AsyncClient
    broker: Tansu
    wire: Proxy
    kafka: KafkaSite
    store: RedisQueue
    pace: Pace

    async def ready(self) -> dict[str, Any]:
        response = await self.http.get("/ready")
        return {"code": response.status_code, **response.json()}

    async def turns(self, *, ready: bool) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            found = await self.ready()
            return found if (found["code"] == 200) is ready else None

        return await eventually(look, pause=0.02) or {}

    async def logged(self) -> list[Submission]:
        records = await asyncio.to_thread(read_all, f"127.0.0.1:{self.wire.port}", Topics(self.kafka.prefix).accepted)
        return [decode_accepted(record.value) for record in records]

    async def pump(self) -> int:
        """Admit what the log has, as the pump does. Returns how many records that were."""
        found = await self.logged()
        for submission in found:
            await self.store.admit(submission)
        return len(found)

    async def jobs(self) -> list[str]:
        return [job.request.id for job in await self.store.list_jobs("default", after=None, limit=100)]


@pytest.fixture
async def site(valkey: Store, archive: Archive, tmp_path: Path) -> AsyncIterator[Site]:
    catalog, pace = Catalog({MODEL: WordPrompter}), Pace()
    await catalog.load()
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(proxy_to("http://127.0.0.1:0"))
        broker = stack.enter_context(tansu(tmp_path / "tansu.log", advertised_port=wire.port))
        wire.upstream = f"http://127.0.0.1:{broker.port}"
        kafka = new_site(broker.servers)
        await asyncio.to_thread(make_topics, kafka)
        settings = kafka.settings(
            viewer_grace_ms=200, redis_url=valkey.url, port=0, model=MODEL, ping_s=0.05, shutdown_s=2, kafka_timeout_s=TIMEOUT_S
        )
        queue, log = await stack.enter_async_context(connect_submitter(settings))
        store = await RedisQueue.connect(valkey.url)
        stack.push_async_callback(store.aclose)
        await stack.enter_async_context(ScriptedWorker(store, model=MODEL, pace=pace).run())
        url = await stack.enter_async_context(listening(Server(create_app(queue, archive, catalog, settings, log=log), settings)))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20))
        yield Site(http, broker, wire, kafka, store, pace)
        wire.silent = wire.drop_replies = False


async def test_a_request_is_in_the_log_before_it_is_confirmed(site: Site) -> None:
    receipt = await site.http.post("/v1/jobs", json=BODY)
    assert receipt.status_code == 202
    assert [submission.request.id for submission in await site.logged()] == [receipt.json()["id"]]
    answer = await site.http.post(CHAT, json=BODY)
    assert answer.json()["choices"][0]["message"]["content"] == "".join(PANGRAM)
    found = await site.ready()
    assert (found["code"], found["components"]["log"]) == (200, {"status": "ok"})
    metrics = (await site.http.get("/metrics")).text
    assert "headrace_log_up 1.0" in metrics
    assert "headrace_log_append_seconds_count 2.0" in metrics


async def kill(site: Site) -> None:
    site.broker.kill()


async def silence(site: Site) -> None:
    site.wire.silent = True


async def hang(site: Site) -> None:
    site.broker.pause()


@pytest.mark.parametrize("fault", [kill, silence, hang])
async def test_without_a_broker_requests_are_refused_in_time_and_all_else_goes_on(site: Site, fault: Any) -> None:
    site.pace.hold()
    received = bytearray()
    stream = asyncio.create_task(read_stream(site.http, received))

    async def begun() -> bool:
        return len(received) > 0

    await eventually(begun)
    job_id = (await site.http.post("/v1/jobs", json=BODY)).json()["id"]
    await fault(site)
    try:
        await refused_in_time(site, TIMEOUT_S + 0.5)
        found = await site.turns(ready=False)
        assert found["components"]["log"]["status"] == "failed"
        assert found["components"]["store"] == {"status": "ok"}
        assert any(reason.startswith("the log of requests: ") for reason in found["reasons"])
        for path in ("/v1/jobs", CHAT):
            await refused_in_time(site, 0.3, path)
        assert (await site.http.get(f"/v1/jobs/{job_id}")).status_code == 200
        site.pace.release()
        await stream
        assert list(parse_events(lines_of([bytes(received)])))[-1].data == "[DONE]"
        assert (await site.http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 200
        assert "headrace_log_up 0.0" in (await site.http.get("/metrics")).text
        assert len(await site.jobs()) == 2, "nothing is left of what was refused"
    finally:
        site.broker.go_on()


async def read_stream(http: httpx.AsyncClient, received: bytearray) -> None:
    async with http.stream("POST", CHAT, json=BODY | {"stream": True}) as response:
        async for piece in response.aiter_raw():
            received.extend(piece)


async def refused_in_time(site: Site, within_s: float, path: str = "/v1/jobs") -> None:
    started = time.monotonic()
    response = await site.http.post(path, json=BODY)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_unavailable")
    assert int(response.headers["retry-after"]) >= 1
    assert time.monotonic() - started < within_s


async def test_once_it_is_back_requests_are_taken_again(site: Site) -> None:
    site.broker.kill()
    await site.turns(ready=False)
    site.broker.start()  # without the topics that it had in memory
    found = await site.turns(ready=False)
    assert "headrace kafka init" in found["components"]["log"]["why"] or "not reachable" in found["components"]["log"]["why"]
    await asyncio.to_thread(make_topics, site.kafka)
    await site.turns(ready=True)
    assert (await site.http.post(CHAT, json=BODY)).status_code == 200


@pytest.mark.parametrize("key", ["k", None])
async def test_what_was_written_and_not_acknowledged_runs_once_or_never(site: Site, key: str | None) -> None:
    """The broker has the record, and its answer is lost until the caller has been told 503."""
    headers = {} if key is None else {"idempotency-key": key}
    site.wire.drop_replies = True
    response = await site.http.post("/v1/jobs", json=BODY, headers=headers)
    assert response.status_code == 503
    site.wire.drop_replies = False
    await site.turns(ready=True)
    written = await site.logged()
    assert len(written) == 1, "it is there, and once"
    if key is None:
        assert await site.pump() == 1
        assert await site.jobs() == []
        return
    again = await site.http.post("/v1/jobs", json=BODY, headers=headers)
    assert again.status_code == 202
    assert again.json()["id"] == written[0].request.id
    for _ in range(2):
        assert await site.pump() == 2
    assert await site.jobs() == [again.json()["id"]]

    async def done() -> bool:
        return bool((await site.http.get(f"/v1/jobs/{again.json()['id']}")).json()["ended_at"])

    await eventually(done)
    job = await site.store.get("default", again.json()["id"])
    assert (job.epoch, job.committed) == (1, len(PANGRAM) + 1), "it ran once"


async def test_whoever_repeats_a_call_through_an_outage_gets_its_answer(site: Site) -> None:
    """However long it lasts: it was the log that was waited for, and nobody's absence counts before."""
    headers = {"idempotency-key": "k"}
    site.wire.silent = True
    response = await site.http.post(CHAT, json=BODY, headers=headers)
    assert response.status_code == 503
    await site.turns(ready=False)
    assert await site.store.cancel_unattended(10) == 0
    site.wire.silent = False
    await site.turns(ready=True)
    answer = await site.http.post(CHAT, json=BODY, headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "".join(PANGRAM)


@pytest.mark.parametrize("kill_at_s", [0.0, 0.02, 0.05])
async def test_what_was_promised_outlives_a_broker_killed_under_load(site: Site, kill_at_s: float) -> None:
    """Each 202 is a job, and each 503 of a request without a key is none."""

    async def submit() -> httpx.Response:
        return await site.http.post("/v1/jobs", json=BODY)

    async def kill_it() -> None:
        await asyncio.sleep(kill_at_s)
        site.broker.kill()

    killing = asyncio.create_task(kill_it())
    responses = await asyncio.gather(*(submit() for _ in range(40)))
    await killing
    assert {response.status_code for response in responses} <= {202, 503}
    promised = sorted(response.json()["id"] for response in responses if response.status_code == 202)
    assert sorted(await site.jobs()) == promised


async def test_the_process_says_what_it_lacks_and_takes_what_comes(valkey: Store, tmp_path: Path) -> None:
    broker = Tansu(tmp_path / "tansu.log")
    kafka, model = new_site(broker.servers), tmp_path / "model"
    make_model(model)
    api = ApiProcess(
        valkey.url, model, HEADRACE_QUEUE_URL=f"kafka://{kafka.servers}", HEADRACE_KAFKA_PREFIX=kafka.prefix, HEADRACE_KAFKA_TIMEOUT_S="1"
    )
    async with api.run(), httpx.AsyncClient(base_url=api.url, timeout=20) as http:

        async def lacks_it() -> bool:
            try:
                return bool((await http.get("/ready")).json()["components"]["log"]["status"] == "failed")
            except httpx.TransportError:
                return False

        await eventually(lacks_it, pause=0.05)
        broker.start()
        try:
            await asyncio.to_thread(make_topics, kafka)
            await api.ready(http)
            body = BODY | {"max_tokens": 20, "model": "model"}
            receipt = await http.post("/v1/jobs", json=body)
            assert receipt.status_code == 202, receipt.text
        finally:
            broker.kill()


def test_a_url_that_is_none_is_refused(valkey: Store) -> None:
    with pytest.raises(Exception, match="HEADRACE_QUEUE_URL must be"):
        asyncio.run(_connect(Settings(redis_url=valkey.url, queue_url="redis://nowhere")))


async def _connect(settings: Settings) -> None:
    async with connect_submitter(settings):
        pass
