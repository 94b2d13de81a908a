"""/v1/batches: a file of requests, run in the background."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from headrace.batch import Batch, NewBatch
from headrace.batch_ports import FileRegistry
from headrace.errors import BatchNotFound, FileNotKnown, InvalidRequest, LogUnavailable
from headrace.file import Purpose
from headrace.ids import BATCH_ID, made_file_id, new_batch_id
from headrace.wire.json_object import fingerprint, parse_object
from headrace.wire.problems import explain
from producer_api import openapi
from producer_api.admission import idempotency_key
from producer_api.archive import Archive
from producer_api.auth import Tenant
from producer_api.batch_body import BatchBody
from producer_api.batch_object import batch_object
from producer_api.body import read_body
from producer_api.envelope import json_response
from producer_api.page import page
from producer_api.routes.files import living_file
from producer_api.routes.inference import REPLAYED
from producer_api.services import Served
from producer_api.topic_range import settled_range, usable_topic
from producer_api.written import written

router = APIRouter(tags=["batches"])

BatchId = Annotated[str, Path(json_schema_extra={"pattern": openapi.BATCH_ID})]


@router.post("/v1/batches", openapi_extra=openapi.BATCH)
async def create_batch(http: Request, services: Served, tenant: Tenant) -> Response:
    """Run an uploaded file, or records of a topic. They are validated first, in the background: look at the batch for what came of it."""
    key = idempotency_key(http.headers)
    batches, settings = services.archive.batches, services.settings
    parsed = parse_object(await read_body(http, settings.max_body_bytes))
    body = _checked(parsed)
    body_hash, window_ms = fingerprint(http.url.path, parsed), settings.batch_window_s * 1000
    try:
        new = await _settled(services.archive, tenant, body)
    except (FileNotKnown, InvalidRequest, LogUnavailable):
        # The input may have gone since.
        earlier = None if key is None else await batches.made_before(tenant, key, body_hash)
        if earlier is None:
            raise
        return json_response(batch_object(await batches.get(tenant, earlier.id)), headers=REPLAYED)

    async def create() -> Batch:
        stored = await batches.create(new, window_ms=window_ms, idempotency_key=key, body_hash=body_hash)
        return await batches.get(tenant, stored.id)

    batch = await written(create)
    # Replayed under our own id, it was our first call whose answer was lost.
    return json_response(batch_object(batch), headers=None if batch.new.id == new.id else REPLAYED)


@router.get("/v1/batches")
async def list_batches(
    services: Served, tenant: Tenant, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
) -> Response:
    """The caller's batches, newest first; `after` is the id of the last one seen."""
    if after is not None:
        _check_id(after, "after")
    batches = await services.archive.batches.list_batches(tenant, after=after, limit=limit + 1)
    return json_response(page([batch_object(batch) for batch in batches[:limit]], has_more=len(batches) > limit))


@router.get("/v1/batches/{batch_id}")
async def get_batch(batch_id: BatchId, services: Served, tenant: Tenant) -> Response:
    """One batch, with its progress."""
    _check_id(batch_id, "batch_id")
    return json_response(batch_object(await services.archive.batches.get(tenant, batch_id)))


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(batch_id: BatchId, services: Served, tenant: Tenant) -> Response:
    """Stop a batch; what is done is kept, and every other line is accounted for as cancelled."""
    _check_id(batch_id, "batch_id")
    return json_response(batch_object(await written(lambda: services.archive.batches.cancel(tenant, batch_id))))


def _checked(parsed: dict[str, object]) -> BatchBody:
    try:
        body = BatchBody.model_validate(parsed)
    except ValidationError as error:
        raise explain(error) from None
    body.check_source()
    return body


async def _settled(archive: Archive, tenant: str, body: BatchBody) -> NewBatch:
    """Raises FileNotKnown, InvalidRequest, LogUnavailable."""
    batch_id = new_batch_id()
    if body.input_file_id is not None:
        await _check_input(archive.files, tenant, body.input_file_id)
    if body.output_topic is not None:
        await usable_topic(archive.topics, tenant, body.output_topic, "output_topic")
    return NewBatch(
        id=batch_id,
        tenant=tenant,
        endpoint=body.endpoint,
        input_file_id=body.input_file_id or made_file_id(batch_id, "input"),
        metadata=body.metadata,
        output_ttl_s=None if body.output_expires_after is None else body.output_expires_after.seconds,
        input_topic=None if body.input_topic is None else await settled_range(archive.topics, tenant, body.input_topic),
        output_topic=body.output_topic,
    )


async def _check_input(files: FileRegistry, tenant: str, file_id: str) -> None:
    """Raises FileNotKnown, InvalidRequest. What is in the file is for its validation to say."""
    record = await living_file(files, tenant, file_id, "input_file_id")
    if record.purpose is not Purpose.BATCH:
        raise InvalidRequest(
            f"'input_file_id' must be a file of purpose '{Purpose.BATCH}', got one of purpose '{record.purpose}'.", param="input_file_id"
        )


def _check_id(batch_id: str, param: str) -> None:
    if not BATCH_ID.fullmatch(batch_id):
        raise BatchNotFound(f"No batch has the id {batch_id[:80]!r}.", param=param)
