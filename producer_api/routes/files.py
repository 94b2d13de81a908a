"""/v1/files: input of batches comes in, their results go out."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi import Path as Parameter
from starlette.responses import Response

from headrace.batch_ports import FileRegistry
from headrace.errors import FileInUse, FileNotKnown, IdempotencyConflict
from headrace.file import FileRecord, Purpose
from headrace.files.journals import Journals
from headrace.files.workspace import Workspace
from headrace.ids import FILE_ID, new_file_id
from producer_api import openapi
from producer_api.admission import idempotency_key
from producer_api.archive import Archive
from producer_api.auth import Tenant
from producer_api.disk import writing_files
from producer_api.download import Pieces, blob_pieces, download, line_pieces
from producer_api.envelope import json_response
from producer_api.file_object import file_object
from producer_api.page import page
from producer_api.routes.inference import REPLAYED
from producer_api.services import Served
from producer_api.upload import Upload, receive
from producer_api.written import written

router = APIRouter(tags=["files"])

FileId = Annotated[str, Parameter(json_schema_extra={"pattern": openapi.FILE_ID})]


@router.post("/v1/files", openapi_extra=openapi.UPLOAD)
async def upload_file(http: Request, services: Served, tenant: Tenant) -> Response:
    """Upload the input of a batch as a form: `file`, `purpose`, and `expires_after[anchor]` with `expires_after[seconds]` if you like."""
    key = idempotency_key(http.headers)
    archive, settings = services.archive, services.settings
    async with receive(http, archive.blobs, settings.max_file_bytes) as upload:
        record = _new_record(tenant, upload, settings.file_ttl_s)
        # The bytes first: a record without them would be a file that was lost, bytes without a record are swept away.
        with writing_files():
            await asyncio.to_thread(archive.blobs.publish, upload.scratch, record.id)
    stored_id = await _record(archive, record, key, upload.body_hash)
    if stored_id == record.id:
        return json_response(file_object(record))
    return json_response(file_object(await archive.files.get(tenant, stored_id)), headers=REPLAYED)


def _new_record(tenant: str, upload: Upload, default_ttl_s: int) -> FileRecord:
    now_ms = _now_ms()
    ttl_s = default_ttl_s if upload.expires_after_s is None else upload.expires_after_s
    return FileRecord(
        id=new_file_id(),
        tenant=tenant,
        filename=upload.filename,
        purpose=Purpose.BATCH,
        size=upload.size,
        created_ms=now_ms,
        expires_ms=now_ms + ttl_s * 1000,
    )


async def _record(archive: Archive, record: FileRecord, key: str | None, body_hash: str) -> str:
    """The id of the file that stands for this upload; bytes that turn out to be stored already are deleted."""
    try:
        stored = await written(lambda: archive.files.add(record, idempotency_key=key, body_hash=body_hash))
    except IdempotencyConflict:
        await asyncio.to_thread(archive.blobs.delete, record.id)
        raise
    if stored.id != record.id:
        await asyncio.to_thread(archive.blobs.delete, record.id)
    return stored.id


@router.get("/v1/files")
async def list_files(
    services: Served,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
    purpose: Purpose | None = None,
) -> Response:
    """The caller's files, newest first; `after` is the id of the last one seen."""
    if after is not None:
        _check_id(after, "after")
    newest_first, window, now_ms = order == "desc", limit + 1, _now_ms()
    while True:
        records = await services.archive.files.list_files(tenant, purpose=purpose, after=after, limit=window, newest_first=newest_first)
        living = [record for record in records if not _expired(record, now_ms)]
        if len(living) > limit or len(records) < window:
            break
        # Expired files that nobody has swept yet fill the page. An empty page would end the client's loop, and a cursor of ours might be
        # swept while we use it: so all again, with room for them.
        window *= 2
    return json_response(page([file_object(record) for record in living[:limit]], has_more=len(living) > limit))


@router.get("/v1/files/{file_id}")
async def get_file(file_id: FileId, services: Served, tenant: Tenant) -> Response:
    """One file."""
    return json_response(file_object(await living_file(services.archive.files, tenant, file_id, "file_id")))


@router.delete("/v1/files/{file_id}")
async def delete_file(file_id: FileId, services: Served, tenant: Tenant) -> Response:
    """Delete a file. A batch that has begun to check it goes on: it has the bytes. What a batch still writes is not to be deleted."""
    archive = services.archive
    record = await living_file(archive.files, tenant, file_id, "file_id")
    if record.batch_id is not None:
        raise FileInUse(f"Batch {record.batch_id} still writes file {file_id}; cancel it, or wait for its end.", param="file_id")
    await _forget(archive.files, record)
    await asyncio.to_thread(archive.blobs.delete, file_id)
    return json_response({"id": file_id, "object": "file", "deleted": True})


@router.get("/v1/files/{file_id}/content", response_class=Response, responses=openapi.BYTES)
async def file_content(file_id: FileId, services: Served, tenant: Tenant) -> Response:
    """The file's bytes. While a batch still writes it: the answers so far, up to the first line that has none, and `X-Incomplete: true`."""
    archive = services.archive
    record = await living_file(archive.files, tenant, file_id, "file_id")
    if record.batch_id is not None:
        incomplete = {"x-incomplete": "true"}
        try:
            journal = Workspace(services.settings.files_dir, record.batch_id).journal
            return await download(_answers_so_far(archive.journals, journal), record.filename, incomplete)
        except FileNotFoundError:
            # No journal: it is not begun, or the batch has ended since that look at the record.
            record = await living_file(archive.files, tenant, file_id, "file_id")
            if record.batch_id is not None:
                return await download(line_pieces(()), record.filename, incomplete)
    return await download(blob_pieces(archive.blobs, file_id), record.filename, {"content-length": str(record.size)})


def _answers_so_far(journals: Journals, path: Path) -> Pieces:
    """Raises FileNotFoundError with the first piece, if there is no journal."""
    journal = journals.latest(path)
    if not journal.prefix_bytes:
        path.stat()
    yield from line_pieces(journal.prefix())


async def living_file(files: FileRegistry, tenant: str, file_id: str, param: str) -> FileRecord:
    """Raises FileNotKnown, naming `param`, for whatever is not a file of the tenant, or has expired."""
    _check_id(file_id, param)
    record = await files.get(tenant, file_id)
    if _expired(record, _now_ms()):
        raise FileNotKnown(f"File {file_id} has expired.", param=param)
    return record


def _check_id(file_id: str, param: str) -> None:
    if not FILE_ID.fullmatch(file_id):
        raise FileNotKnown(f"No file has the id {file_id[:80]!r}.", param=param)


async def _forget(files: FileRegistry, record: FileRecord) -> None:
    # It was there a moment ago. If it is unknown now, an attempt whose answer was lost has removed it, or another caller has.
    with suppress(FileNotKnown):
        await written(lambda: files.remove(record.tenant, record.id))


def _expired(record: FileRecord, now_ms: int) -> bool:
    return record.expires_ms is not None and record.expires_ms <= now_ms


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
