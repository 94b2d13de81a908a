from typing import Any

import httpx
import pytest

from headrace.batch import BatchStatus, LineFault, Progress
from headrace.batch_ports import BatchUpdate, BatchWork
from headrace.ids import made_file_id, new_file_id
from headrace.settings import Settings
from headrace.testing.outages import cut_off, lose_replies
from producer_api.archive import Archive

LEASE_MS = 60_000
TIMES = {"in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at"}


@pytest.fixture
async def input_id(http: httpx.AsyncClient) -> str:
    response = await http.post("/v1/files", files={"file": ("in.jsonl", b"{}\n")}, data={"purpose": "batch"})
    file_id: str = response.json()["id"]
    return file_id


def body(input_id: str, **fields: Any) -> dict[str, Any]:
    return {"input_file_id": input_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"} | fields


async def create(http: httpx.AsyncClient, input_id: str, **fields: Any) -> dict[str, Any]:
    response = await http.post("/v1/batches", json=body(input_id, **fields))
    assert response.status_code == 200, response.text
    batch: dict[str, Any] = response.json()
    return batch


async def show(http: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    response = await http.get(f"/v1/batches/{batch_id}")
    assert response.status_code == 200
    batch: dict[str, Any] = response.json()
    return batch


def stamped(batch: dict[str, Any]) -> set[str]:
    return {name for name in TIMES if batch[name] is not None}


class Holder:
    """Somebody who works on one batch."""

    def __init__(self, work: BatchWork, batch_id: str) -> None:
        self._work = work
        self._batch_id = batch_id
        self._epoch = 0

    async def write(self, update: BatchUpdate) -> None:
        if not self._epoch:
            lease = await self._work.acquire(self._batch_id, "test", LEASE_MS)
            assert lease is not None
            self._epoch = lease.epoch
        await self._work.update(self._batch_id, self._epoch, update, LEASE_MS)


async def test_a_new_batch(http: httpx.AsyncClient, archive: Archive, input_id: str, settings: Settings) -> None:
    batch = await create(http, input_id, metadata={"customer": "ü"}, output_expires_after={"anchor": "created_at", "seconds": 3_600})
    assert (batch["object"], batch["status"], batch["endpoint"]) == ("batch", "validating", "/v1/chat/completions")
    assert (batch["input_file_id"], batch["completion_window"], batch["metadata"]) == (input_id, "24h", {"customer": "ü"})
    assert batch["expires_at"] - batch["created_at"] == settings.batch_window_s
    assert (stamped(batch), batch["model"], batch["errors"], batch["output_file_id"], batch["error_file_id"]) == (set(), *[None] * 4)
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert await show(http, batch["id"]) == batch
    assert (await http.get("/v1/batches")).json()["data"] == [batch]
    assert (await archive.batches.get("default", batch["id"])).new.output_ttl_s == 3_600


async def test_completions_and_no_metadata(http: httpx.AsyncClient, archive: Archive, input_id: str) -> None:
    batch = await create(http, input_id, endpoint="/v1/completions", metadata=None, output_expires_after=None)
    assert (batch["endpoint"], batch["metadata"]) == ("/v1/completions", None)
    assert (await archive.batches.get("default", batch["id"])).new.output_ttl_s is None


KEY = {"idempotency-key": "k"}


class TestIdempotency:
    async def test_the_same_request_is_the_same_batch(self, http: httpx.AsyncClient, input_id: str) -> None:
        first, again = [await http.post("/v1/batches", json=body(input_id), headers=KEY) for _ in range(2)]
        assert (again.status_code, again.json()) == (200, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        conflict = await http.post("/v1/batches", json=body(input_id, metadata={"a": "b"}), headers=KEY)
        assert (conflict.status_code, conflict.json()["error"]["code"]) == (422, "idempotency_conflict")
        assert (await http.get("/v1/batches")).json()["data"] == [first.json()]

    async def test_it_outlives_its_input(self, http: httpx.AsyncClient, input_id: str) -> None:
        first = await http.post("/v1/batches", json=body(input_id), headers=KEY)
        await http.delete(f"/v1/files/{input_id}")
        again = await http.post("/v1/batches", json=body(input_id), headers=KEY)
        assert (again.status_code, again.json(), again.headers["idempotent-replayed"]) == (200, first.json(), "true")
        conflict = await http.post("/v1/batches", json=body(input_id, metadata={"a": "b"}), headers=KEY)
        assert (conflict.status_code, conflict.json()["error"]["code"]) == (422, "idempotency_conflict")
        for headers in ({}, {"idempotency-key": "other"}):
            assert (await http.post("/v1/batches", json=body(input_id), headers=headers)).status_code == 404

    async def test_without_a_key_each_is_its_own(self, http: httpx.AsyncClient, input_id: str) -> None:
        assert (await create(http, input_id))["id"] != (await create(http, input_id))["id"]

    async def test_a_file_may_have_the_same_key(self, http: httpx.AsyncClient, input_id: str) -> None:
        await http.post("/v1/batches", json=body(input_id), headers=KEY)
        files = {"file": ("in.jsonl", b"{}\n")}
        response = await http.post("/v1/files", files=files, data={"purpose": "batch"}, headers=KEY)
        assert (response.status_code, response.json()["object"]) == (200, "file")

    @pytest.mark.parametrize("call", ["create", "get"])
    async def test_a_lost_reply_does_not_create_twice(self, http: httpx.AsyncClient, archive: Archive, input_id: str, call: str) -> None:
        lose_replies(archive.batches, call, 1)
        response = await http.post("/v1/batches", json=body(input_id))
        assert response.status_code == 200
        assert "idempotent-replayed" not in response.headers
        assert len((await http.get("/v1/batches")).json()["data"]) == 1


class TestItsInput:
    async def test_must_be_there(self, http: httpx.AsyncClient) -> None:
        response = await http.post("/v1/batches", json=body(new_file_id()))
        assert (response.status_code, response.json()["error"]["code"]) == (404, "file_not_found")
        assert (await http.get("/v1/batches")).json()["data"] == []

    async def test_may_be_deleted_afterwards(self, http: httpx.AsyncClient, input_id: str) -> None:
        batch = await create(http, input_id)
        assert (await http.delete(f"/v1/files/{input_id}")).json()["deleted"]
        assert await show(http, batch["id"]) == batch
        response = await http.post("/v1/batches", json=body(input_id))
        assert response.status_code == 404


async def test_pages(http: httpx.AsyncClient, input_id: str) -> None:
    ids = [(await create(http, input_id))["id"] for _ in range(5)]
    seen: list[str] = []
    after: dict[str, str] = {}
    for has_more, size in ((True, 2), (True, 2), (False, 1)):
        page = (await http.get("/v1/batches", params={"limit": 2, **after})).json()
        assert (page["object"], page["has_more"], len(page["data"])) == ("list", has_more, size)
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        seen += [batch["id"] for batch in page["data"]]
        after = {"after": page["last_id"]}
    assert seen == ids[::-1]


async def test_a_batch_that_runs_to_its_end(http: httpx.AsyncClient, work: BatchWork, input_id: str) -> None:
    batch_id = (await create(http, input_id))["id"]
    holder, output, errors = Holder(work, batch_id), made_file_id(batch_id, "output"), made_file_id(batch_id, "errors")

    await holder.write(BatchUpdate(status=BatchStatus.IN_PROGRESS, model="m", progress=Progress(total=3)))
    batch = await show(http, batch_id)
    assert (batch["status"], batch["model"], stamped(batch)) == ("in_progress", "m", {"in_progress_at"})
    assert (batch["output_file_id"], batch["request_counts"]["total"]) == (None, 3)

    progress = Progress(total=3, completed=1, input_tokens=10, output_tokens=4)
    await holder.write(BatchUpdate(output_file_id=output, progress=progress))
    batch = await show(http, batch_id)
    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("in_progress", output, None)
    assert (batch["usage"]["input_tokens"], batch["usage"]["output_tokens"], batch["usage"]["total_tokens"]) == (10, 4, 14)

    await holder.write(BatchUpdate(status=BatchStatus.FINALIZING))
    batch = await show(http, batch_id)
    assert (batch["status"], stamped(batch)) == ("finalizing", {"in_progress_at", "finalizing_at"})
    refused = await http.post(f"/v1/batches/{batch_id}/cancel")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "batch_not_cancellable")
    assert refused.headers["x-should-retry"] == "false"

    progress = Progress(total=3, completed=2, failed=1, input_tokens=30, output_tokens=9)
    await holder.write(BatchUpdate(status=BatchStatus.COMPLETED, error_file_id=errors, progress=progress))
    batch = await show(http, batch_id)
    assert (batch["status"], stamped(batch)) == ("completed", {"in_progress_at", "finalizing_at", "completed_at"})
    assert (batch["output_file_id"], batch["error_file_id"]) == (output, errors)
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"]
    assert (await http.post(f"/v1/batches/{batch_id}/cancel")).status_code == 409


async def test_a_batch_whose_input_was_refused(http: httpx.AsyncClient, work: BatchWork, input_id: str) -> None:
    batch_id = (await create(http, input_id))["id"]
    faults = (LineFault(code="invalid_json_line", message="This line is no JSON.", line=3), LineFault(code="x", message="m", param="p"))
    await Holder(work, batch_id).write(BatchUpdate(status=BatchStatus.FAILED, faults=faults))
    batch = await show(http, batch_id)
    assert (batch["status"], stamped(batch), batch["output_file_id"]) == ("failed", {"failed_at"}, None)
    assert batch["errors"] == {
        "object": "list",
        "data": [
            {"code": "invalid_json_line", "message": "This line is no JSON.", "param": None, "line": 3},
            {"code": "x", "message": "m", "param": "p", "line": None},
        ],
    }


async def test_cancelling(http: httpx.AsyncClient, work: BatchWork, input_id: str) -> None:
    batch_id = (await create(http, input_id))["id"]
    first = await http.post(f"/v1/batches/{batch_id}/cancel")
    assert (first.status_code, first.json()["status"], stamped(first.json())) == (200, "cancelling", {"cancelling_at"})
    again = await http.post(f"/v1/batches/{batch_id}/cancel")
    assert (again.status_code, again.json()) == (200, first.json())
    await Holder(work, batch_id).write(BatchUpdate(status=BatchStatus.CANCELLED, progress=Progress(total=4, completed=1, failed=3)))
    batch = await show(http, batch_id)
    assert (batch["status"], stamped(batch)) == ("cancelled", {"cancelling_at", "cancelled_at"})
    assert (await http.post(f"/v1/batches/{batch_id}/cancel")).status_code == 409


async def test_a_lost_reply_to_a_cancel(http: httpx.AsyncClient, archive: Archive, input_id: str) -> None:
    batch_id = (await create(http, input_id))["id"]
    lose_replies(archive.batches, "cancel", 1)
    assert (await http.post(f"/v1/batches/{batch_id}/cancel")).json()["status"] == "cancelling"


async def test_without_a_store(http: httpx.AsyncClient, archive: Archive, input_id: str) -> None:
    batch_id = (await create(http, input_id))["id"]
    cut_off(archive.batches, "create", "get", "list_batches", "cancel")
    requests: list[tuple[str, str, Any]] = [
        ("POST", "", body(input_id)),
        ("GET", "", None),
        ("GET", f"/{batch_id}", None),
        ("POST", f"/{batch_id}/cancel", None),
    ]
    for method, path, json in requests:
        response = await http.request(method, f"/v1/batches{path}", json=json)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_unavailable")
        assert response.headers["retry-after"] == "1"
