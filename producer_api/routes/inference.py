"""POST /v1/chat/completions and /v1/completions: the caller waits, for a stream or for the whole answer."""

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace.request import Lane
from headrace.state import State
from headrace.wire.spelling import Spelling
from producer_api import openapi
from producer_api.admission import admit
from producer_api.answering import render_answer
from producer_api.auth import Tenant
from producer_api.envelope import CLIENT_CLOSED_REQUEST, ended_refusal, json_response, shutting_down
from producer_api.follow import ClientGone, read_to_end, stream_frames
from producer_api.log_reader import Interrupted
from producer_api.services import Served, Services
from producer_api.sse import EventStream

router = APIRouter(tags=["inference"])

REPLAYED = {"idempotent-replayed": "true"}


@router.post("/v1/chat/completions", openapi_extra=openapi.CHAT, responses=openapi.EVENTS)
async def chat_completions(http: Request, services: Served, tenant: Tenant) -> Response:
    """A chat completion, streamed or whole, in OpenAI's format."""
    return await _answer(http, services, tenant)


@router.post("/v1/completions", openapi_extra=openapi.COMPLETION, responses=openapi.EVENTS)
async def completions(http: Request, services: Served, tenant: Tenant) -> Response:
    """A completion of plain text, streamed or whole, in OpenAI's format."""
    return await _answer(http, services, tenant)


async def _answer(http: Request, services: Services, tenant: str) -> Response:
    since = time.perf_counter()
    request, replayed = await admit(services, http, tenant, lane=Lane.INTERACTIVE, attended=True)
    headers = REPLAYED if replayed else None
    fresh_since = None if replayed else since
    if request.stream:
        spelling = Spelling.of(request, services.catalog.get)
        return EventStream(stream_frames(services, request, spelling, since=fresh_since), headers=headers)
    try:
        log = await read_to_end(services, request, http.is_disconnected, since=fresh_since)
    except ClientGone:
        # Its grace period runs out in the store, so a caller who comes back with the same Idempotency-Key soon finds the job alive.
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except Interrupted:
        raise shutting_down() from None
    end = log[-1]
    if end.end is not State.DONE and end.end is not None:
        raise ended_refusal(end.end, end.reason)
    return json_response(await render_answer(request, log, services.catalog.get), headers=headers)
