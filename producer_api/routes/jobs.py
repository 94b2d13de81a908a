"""/v1/jobs: submit, go away, come back. A job is never cancelled because nobody looks at it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from starlette.responses import Response

from headrace.cursor import parse_cursor
from headrace.errors import JobNotFound
from headrace.ids import is_job_id
from headrace.request import Lane
from headrace.state import LIVE
from headrace.wire.answers import bare_job_id
from headrace.wire.spelling import Spelling
from producer_api import openapi
from producer_api.admission import admit
from producer_api.auth import Tenant
from producer_api.envelope import json_response
from producer_api.follow import anything_behind, stream_frames
from producer_api.job_object import job_object, job_summary, receipt, self_link
from producer_api.page import page
from producer_api.routes.inference import REPLAYED
from producer_api.services import Served
from producer_api.sse import EventStream

router = APIRouter(tags=["jobs"])


def _job_id(job_id: Annotated[str, Path(json_schema_extra={"pattern": openapi.JOB_ID})]) -> str:
    bare = bare_job_id(job_id)
    if not is_job_id(bare):
        raise JobNotFound(f"No job has the id {job_id[:80]!r}.", param="job_id")
    return bare


JobId = Annotated[str, Depends(_job_id)]


@router.post("/v1/jobs", status_code=202, openapi_extra=openapi.JOB)
async def submit(http: Request, services: Served, tenant: Tenant) -> Response:
    """Submit a chat (`messages`) or a completion (`prompt`): 202 once it is durably stored."""
    request, replayed = await admit(services, http, tenant, lane=Lane.STANDARD, attended=False)
    headers = {"location": self_link(request.id), **(REPLAYED if replayed else {})}
    return json_response(receipt(request), 202, headers)


@router.get("/v1/jobs")
async def list_jobs(
    services: Served, tenant: Tenant, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
) -> Response:
    """The caller's jobs, newest first; `after` is the id of the last one seen."""
    behind = None if after is None else _job_id(after)
    jobs = await services.queue.list_jobs(tenant, after=behind, limit=limit + 1)
    return json_response(page([job_summary(job) for job in jobs[:limit]], has_more=len(jobs) > limit))


@router.get("/v1/jobs/{job_id}")
async def get_job(job_id: JobId, services: Served, tenant: Tenant) -> Response:
    """One job, with its text so far, and its answer once it is done."""
    return json_response(await job_object(services.queue, await services.queue.get(tenant, job_id), services.catalog.get))


@router.post("/v1/jobs/{job_id}/cancel")
async def cancel_job(job_id: JobId, services: Served, tenant: Tenant) -> Response:
    """Stop a job; what it has generated is kept. A job that has ended stays as it is."""
    await services.queue.cancel(tenant, job_id)
    return json_response(await job_object(services.queue, await services.queue.get(tenant, job_id), services.catalog.get))


@router.get("/v1/jobs/{job_id}/events", response_class=Response, responses={**openapi.EVENTS, 204: {"description": "All was seen."}})
async def job_events(
    job_id: JobId,
    services: Served,
    tenant: Tenant,
    last_event_id: Annotated[str | None, Header()] = None,
    after: str | None = None,
) -> Response:
    """The job's event stream: the same events as the stream of its answer, from the first, or behind an event id.

    The id is taken from the header `Last-Event-ID`, which a browser sets by itself when it reconnects, else from `?after=`: where there are
    both, the header is the later one. 204 (which stops a browser from reconnecting) if all was seen.
    """
    job = await services.queue.get(tenant, job_id)
    if job.request.attended and job.state in LIVE:
        await services.queue.attend([job_id])
    spelling = Spelling.of(job.request, services.catalog.get)
    param, text = ("Last-Event-ID", last_event_id) if last_event_id else ("after", after)
    if not text:
        return EventStream(stream_frames(services, job.request, spelling, committed=job.committed))
    seen = parse_cursor(text, param=param)
    if not await anything_behind(services.queue, job, seen, param=param):
        return Response(status_code=204)
    return EventStream(stream_frames(services, job.request, spelling, seen=seen, committed=job.committed))
