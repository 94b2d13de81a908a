"""Files and batches through the official client, as its users use it, against a real server."""

import asyncio
import io
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Batch

from headrace.batch import BatchStatus, LineFault, Progress
from headrace.batch_ports import BatchUpdate, BatchWork
from headrace.file import FileRecord, Purpose
from headrace.files.journal import Journal, Result
from headrace.files.workspace import Workspace
from headrace.ids import made_file_id, new_file_id
from producer_api.archive import Archive

LINES = b'{"custom_id":"a"}\n{"custom_id":"b"}\n'
LEASE_MS = 60_000


async def upload(client: AsyncOpenAI, content: bytes = LINES) -> str:
    return (await client.files.create(file=("in.jsonl", content), purpose="batch")).id


async def create(client: AsyncOpenAI, input_id: str) -> Batch:
    return await client.batches.create(input_file_id=input_id, endpoint="/v1/chat/completions", completion_window="24h")


async def test_every_way_to_hand_over_a_file(client: AsyncOpenAI, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    with path.open("rb") as opened:
        for file, name in (
            (path, "a.jsonl"),
            (opened, "a.jsonl"),
            (("b.jsonl", LINES), "b.jsonl"),
            (("ü.jsonl", io.BytesIO(LINES), "application/jsonl"), "ü.jsonl"),
            (LINES, "upload"),
        ):
            created = await client.files.create(file=file, purpose="batch")
            assert (created.filename, created.bytes, created.purpose, created.status) == (name, len(LINES), "batch", "processed")
            assert (await client.files.content(created.id)).content == LINES


async def test_a_file(client: AsyncOpenAI) -> None:
    created = await client.files.create(file=LINES, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3_600})
    assert created.object == "file"
    assert created.expires_at == created.created_at + 3_600
    assert await client.files.retrieve(created.id) == created
    assert await client.files.wait_for_processing(created.id, max_wait_seconds=5) == created
    assert (await client.files.content(created.id)).text == LINES.decode()
    async with client.files.with_streaming_response.content(created.id) as response:
        assert b"".join([chunk async for chunk in response.iter_bytes()]) == LINES
    deleted = await client.files.delete(created.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (created.id, True, "file")
    with pytest.raises(openai.NotFoundError) as caught:
        await client.files.retrieve(created.id)
    assert caught.value.code == "file_not_found"


async def test_all_files_come_by_pages_of_two(client: AsyncOpenAI) -> None:
    ids = [await upload(client) for _ in range(5)]
    assert [file.id async for file in client.files.list(limit=2)] == ids[::-1]
    assert [file.id async for file in client.files.list(limit=2, order="asc", after=ids[0])] == ids[1:]
    assert [file.id async for file in client.files.list(limit=2, purpose="batch_output")] == []
    assert [file.id async for file in client.files.list()] == ids[::-1], "by default all at once"


async def test_all_batches_come_by_pages_of_two(client: AsyncOpenAI) -> None:
    input_id = await upload(client)
    ids = [(await create(client, input_id)).id for _ in range(5)]
    assert [batch.id async for batch in client.batches.list(limit=2)] == ids[::-1]
    assert [batch.id async for batch in client.batches.list(limit=2, after=ids[1])] == ids[:1]


async def test_a_batch_from_upload_to_results(client: AsyncOpenAI, archive: Archive, work: BatchWork, files_dir: Path) -> None:
    input_id = await upload(client)
    batch = await client.batches.create(
        input_file_id=input_id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"k": "v"},
        output_expires_after={"anchor": "created_at", "seconds": 3_600},
    )
    assert (batch.object, batch.status, batch.metadata, batch.input_file_id) == ("batch", "validating", {"k": "v"}, input_id)
    assert (batch.errors, batch.output_file_id, batch.error_file_id) == (None, None, None)
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 0, "completed": 0, "failed": 0}

    lease = await work.acquire(batch.id, "test", LEASE_MS)
    assert lease is not None
    output_id, workspace = made_file_id(batch.id, "output"), Workspace(files_dir, batch.id)
    workspace.create()
    Journal(workspace.journal).append([Result(0, True, 5, 7, b'{"custom_id":"a"}')])
    record = FileRecord(
        id=output_id,
        tenant="default",
        filename="output.jsonl",
        purpose=Purpose.BATCH_OUTPUT,
        size=0,
        created_ms=batch.created_at * 1000,
        batch_id=batch.id,
    )
    await archive.files.put(record)
    progress = Progress(total=2, completed=1, input_tokens=5, output_tokens=7)
    update = BatchUpdate(status=BatchStatus.IN_PROGRESS, model="m", output_file_id=output_id, progress=progress)
    await work.update(batch.id, lease.epoch, update, LEASE_MS)

    batch = await client.batches.retrieve(batch.id)
    assert (batch.status, batch.model, batch.output_file_id) == ("in_progress", "m", output_id)
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (5, 7, 12)
    assert (batch.usage.input_tokens_details.cached_tokens, batch.usage.output_tokens_details.reasoning_tokens) == (0, 0)
    partial = await client.files.content(output_id)
    assert (partial.text, partial.response.headers["x-incomplete"]) == ('{"custom_id":"a"}\n', "true")
    with pytest.raises(openai.ConflictError) as caught:
        await client.files.delete(output_id)
    assert caught.value.code == "file_in_use"


async def test_a_batch_that_failed(client: AsyncOpenAI, work: BatchWork) -> None:
    batch = await create(client, await upload(client))
    lease = await work.acquire(batch.id, "test", LEASE_MS)
    assert lease is not None
    faults = (LineFault(code="invalid_json_line", message="This line is no JSON.", line=1),)
    await work.update(batch.id, lease.epoch, BatchUpdate(status=BatchStatus.FAILED, faults=faults), LEASE_MS)
    batch = await client.batches.retrieve(batch.id)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.code, error.line, error.param) for error in batch.errors.data] == [("invalid_json_line", 1, None)]
    assert (batch.status, batch.failed_at is not None) == ("failed", True)


async def test_cancelling(client: AsyncOpenAI, work: BatchWork) -> None:
    batch = await create(client, await upload(client))
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    lease = await work.acquire(batch.id, "test", LEASE_MS)
    assert lease is not None
    await work.update(batch.id, lease.epoch, BatchUpdate(status=BatchStatus.CANCELLED), LEASE_MS)
    with pytest.raises(openai.ConflictError) as caught:
        await client.batches.cancel(batch.id)
    assert caught.value.code == "batch_not_cancellable"


async def test_errors_are_the_clients_own(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await client.files.create(file=LINES, purpose="vision")
    assert (bad.value.code, bad.value.param) == ("invalid_value", "purpose")
    assert bad.value.request_id
    with pytest.raises(openai.NotFoundError) as unknown:
        await create(client, new_file_id())
    assert unknown.value.code == "file_not_found"
    with pytest.raises(openai.BadRequestError) as unsupported:
        await client.batches.create(input_file_id=await upload(client), endpoint="/v1/embeddings", completion_window="24h")
    assert (unsupported.value.code, unsupported.value.param) == ("unsupported_parameter", "endpoint")
    with pytest.raises(openai.APIStatusError) as large:
        await client.files.create(file=bytes(1_000_001), purpose="batch")
    assert (large.value.status_code, large.value.code) == (413, "file_too_large")
    with pytest.raises(openai.NotFoundError):
        await client.batches.retrieve("batch_abc123")


async def test_a_replay_and_a_conflict(client: AsyncOpenAI) -> None:
    key = {"Idempotency-Key": "k"}
    first = await client.files.create(file=LINES, purpose="batch", extra_headers=key)
    raw = await client.files.with_raw_response.create(file=LINES, purpose="batch", extra_headers=key)
    assert (raw.parse(), raw.headers["idempotent-replayed"]) == (first, "true")
    with pytest.raises(openai.UnprocessableEntityError):
        await client.files.create(file=LINES * 2, purpose="batch", extra_headers=key)


async def test_the_synchronous_client_too(url: str) -> None:
    def call() -> tuple[list[str], bytes, str]:
        with OpenAI(base_url=f"{url}/v1", api_key="unused", timeout=20) as client:
            file = client.files.create(file=("in.jsonl", LINES), purpose="batch")
            client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
            batches = [batch.endpoint for batch in client.batches.list(limit=1)]
            return batches, client.files.content(file.id).read(), client.files.wait_for_processing(file.id).status

    assert await asyncio.to_thread(call) == (["/v1/completions"], LINES, "processed")
