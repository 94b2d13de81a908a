import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from headrace.errors import ModelUnavailable
from headrace.settings import Settings
from headrace.testing.bench import Queue
from headrace.testing.builders import make_status
from headrace.testing.eventually import eventually
from headrace.testing.listening import listening
from headrace.testing.outages import CutQueue, lose_replies
from headrace.testing.queue.memory import MemoryQueue
from headrace.testing.scripted_worker import ScriptedWorker
from headrace.testing.words import WordPrompter
from headrace.wire.prompter import Prompter
from producer_api.app import create_app
from producer_api.archive import Archive
from producer_api.catalog import Catalog
from producer_api.server import Server

MODEL = "test-model"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


STATUS = make_status(
    "w1", pid=7, model=MODEL, memory_used=10, memory_total=100, kv_tokens_used=3, kv_tokens_total=30, active_requests=2, steps=5, waiting=1,
    preemptions=4, shrunk_steps=0, step_s=0.25, dtype="int8", kv_dtype="fp16",
)  # fmt: skip


async def test_all_is_well(http: httpx.AsyncClient, queue: Queue) -> None:
    await queue.report(STATUS, 60_000)
    await queue.end_round()
    ready = (await http.get("/ready")).json()
    assert ready["status"] == "ready"
    assert ready["components"]["scheduler"].pop("swept_s_ago") < 5
    assert ready["components"] == {
        "store": {"status": "ok"},
        "scheduler": {"status": "ok"},
        "workers": {"status": "ok", "live": 1, "standbys": 0, "models": {MODEL: 1}},
    }
    health = (await http.get("/health")).json()
    assert (health["status"], health["queue"], health["active_requests"]) == ("ok", "ok", 2)
    assert health["models"] == [{"id": MODEL, "loaded": True, "reason": None}]
    [worker] = health["workers"]
    assert worker.items() >= {"device": "cpu", "memory_used": 10, "memory_total": 100, "kv_tokens_used": 3, "active_requests": 2}.items()
    assert (worker["dtype"], worker["kv_dtype"], worker["step_s"]) == ("int8", "fp16", 0.25)


async def test_without_workers_and_scheduler_it_takes_work_and_says_so(http: httpx.AsyncClient, queue: Queue) -> None:
    ready = await http.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    parts = ready.json()["components"]
    assert parts["scheduler"] == {"status": "unknown", "swept_s_ago": None}
    assert (parts["workers"]["status"], parts["workers"]["live"], parts["workers"]["models"]) == ("missing", 0, {MODEL: 0})
    assert parts["workers"]["why"] == f"no worker runs {MODEL}: requests are accepted and wait"
    assert "headrace_janitor_age_seconds" not in (await http.get("/metrics")).text
    assert (await http.post("/v1/jobs", json=BODY)).status_code == 202


async def test_a_standby_is_seen_and_counts_as_no_worker(http: httpx.AsyncClient, queue: Queue) -> None:
    await queue.report(replace(STATUS, active_requests=0, standby=True), 60_000)
    parts = (await http.get("/ready")).json()["components"]
    assert (parts["workers"]["status"], parts["workers"]["live"], parts["workers"]["standbys"]) == ("missing", 0, 1)
    health = (await http.get("/health")).json()
    assert (health["workers"], [standby["pid"] for standby in health["standbys"]]) == ([], [7])
    lines = (await http.get("/metrics")).text.splitlines()
    assert {"headrace_workers 0.0", "headrace_standbys 1.0"} <= set(lines)


async def test_each_worker_at_work_has_its_metrics_and_an_older_one_those_it_reports(http: httpx.AsyncClient, queue: MemoryQueue) -> None:
    await queue.report(STATUS, 60_000)
    await queue.report(make_status("old", model=MODEL), 60_000)
    await queue.report(replace(STATUS, worker="waits", standby=True), 60_000)
    lines = (await http.get("/metrics")).text.splitlines()
    own = f'{{model="{MODEL}",worker="w1"}}'
    assert {line for line in lines if line.startswith("headrace_worker_") and "old" not in line} == {
        f"headrace_worker_kv_tokens{own} 30.0",
        f"headrace_worker_kv_tokens_used{own} 3.0",
        f"headrace_worker_waiting{own} 1.0",
        f"headrace_worker_step_seconds{own} 0.25",
        f"headrace_worker_preemptions_total{own} 4.0",
        f"headrace_worker_shrunk_steps_total{own} 0.0",
    }
    assert sum('worker="old"' in line for line in lines) == 2


async def test_models(http: httpx.AsyncClient) -> None:
    context = WordPrompter().context_length
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "headrace", "max_model_len": context}
    assert (await http.get("/v1/models")).json() == {"object": "list", "data": [model]}
    assert (await http.get(f"/v1/models/{MODEL}")).json() == model


async def test_a_lost_reply_does_not_store_twice(http: httpx.AsyncClient, queue: Queue) -> None:
    lose_replies(queue, "accept", 1)
    response = await http.post("/v1/jobs", json=BODY)
    assert response.status_code == 202
    assert "idempotent-replayed" not in response.headers, "the repeat was ours, not the caller's"
    [job] = await queue.list_jobs("default", after=None, limit=9)
    assert job.request.id == response.json()["id"]


class TestCutOff:
    """A store that does not answer: `test_store_cut.py` has a real one."""

    @pytest.fixture
    def queue(self) -> CutQueue:
        return CutQueue()

    async def test_without_a_queue(self, http: httpx.AsyncClient, queue: CutQueue) -> None:
        queue.down = True
        health = await http.get("/health")
        assert (health.status_code, health.json()["queue"]) == (200, "queue unreachable")
        ready = await http.get("/ready")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["queue unreachable"])
        parts = ready.json()["components"]
        assert parts["store"] == {"status": "failed", "why": "queue unreachable"}
        assert [parts[name]["status"] for name in ("scheduler", "workers")] == ["unknown", "unknown"]
        for method, path in (("POST", "/v1/jobs"), ("POST", "/v1/chat/completions"), ("GET", "/v1/jobs")):
            response = await http.request(method, path, json=BODY if method == "POST" else None)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert response.json()["error"]["code"] == "queue_unavailable"
            assert response.json()["error"]["type"] == "server_error"
        metrics = (await http.get("/metrics")).text
        assert "headrace_queue_up 0.0" in metrics
        assert "headrace_active_requests" not in metrics
        queue.down = False
        assert (await http.get("/ready")).status_code == 200
        assert (await http.post("/v1/jobs", json=BODY)).status_code == 202

    async def test_an_outage_in_a_stream_is_a_pause(self, http: httpx.AsyncClient, queue: CutQueue) -> None:
        async with http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "id: 0-0"
            queue.down = True
            async with ScriptedWorker(queue, model=MODEL).run():
                await eventually(lambda: _true(bool(queue.outbox)))
                queue.down = False
                rest = [line async for line in lines]
        assert "data: [DONE]" in rest
        assert sum(line.startswith("id: 1-") for line in rest) == 12


async def _true(value: bool) -> bool:
    return value


async def test_a_disk_that_is_away_costs_its_own_metric_alone(http: httpx.AsyncClient, files_dir: Path) -> None:
    shutil.rmtree(files_dir)
    metrics = await http.get("/metrics")
    assert metrics.status_code == 200
    assert "headrace_files_free_bytes" not in metrics.text
    assert "headrace_queue_up 1.0" in metrics.text


async def test_metrics(http: httpx.AsyncClient, queue: Queue, files_dir: Path) -> None:
    async with ScriptedWorker(queue, model=MODEL).run():
        await http.post("/v1/chat/completions", json=BODY | {"stream": True})
    await http.post("/v1/jobs", json=BODY)
    await http.get("/v1/jobs/nonsense")
    await queue.end_round()
    lines = (await http.get("/metrics")).text.splitlines()
    assert "headrace_queue_up 1.0" in lines
    [age] = [line.split() for line in lines if line.startswith("headrace_janitor_age_seconds ")]
    assert float(age[1]) < 5
    assert "headrace_active_requests 0.0" in lines
    assert "headrace_delayed_requests 0.0" in lines
    assert f'headrace_queue_depth{{lane="standard",model="{MODEL}"}} 1.0' in lines
    assert "headrace_live_cost_tokens 4096.0" in lines
    ended = [line for line in lines if line.startswith("headrace_jobs_ended_total")]
    assert ended == ['headrace_jobs_ended_total{fault="",state="done"} 1.0']
    [free] = [line.split() for line in lines if line.startswith("headrace_files_free_bytes ")]
    assert float(free[1]) == pytest.approx(shutil.disk_usage(files_dir).free, rel=0.1)
    assert 'headrace_http_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0' in lines
    assert 'headrace_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"} 1.0' in lines
    assert "headrace_open_streams 0.0" in lines
    assert "headrace_accept_seconds_count 2.0" in lines
    assert "headrace_time_to_first_token_seconds_count 1.0" in lines
    assert "headrace_streamed_tokens_total 11.0" in lines


async def test_a_model_that_appears_later_is_picked_up(settings: Settings, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer_api.catalog._RETRY_S", 0.01)
    loader: Callable[[], Prompter] | None = None

    def load() -> Prompter:
        if loader is None:
            raise ModelUnavailable("no model folder")
        return loader()

    server = Server(create_app(MemoryQueue(), archive, Catalog({MODEL: load}), settings), settings)
    async with listening(server) as url, httpx.AsyncClient(base_url=url) as http:
        await eventually(lambda: _says(http, "no model folder"))
        refused = await http.post("/v1/jobs", json=BODY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await http.get("/v1/models")).json()["data"] == []
        loader = WordPrompter
        await eventually(lambda: _is_ready(http))
        assert (await http.post("/v1/jobs", json=BODY)).status_code == 202


async def _says(http: httpx.AsyncClient, reason: str) -> bool:
    ready = await http.get("/ready")
    return ready.status_code == 503 and reason in ready.text


async def _is_ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/ready")).status_code == 200
