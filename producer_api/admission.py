"""From an HTTP request to a job that is durably in the queue.

    body ─► parse ─► validate ─► count prompt tokens ─► Draft ─► Request ─► queue.accept

Everything up to the draft is a pure function of the body and the model; nothing is stored for a request that is refused.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from fastapi import Request as HttpRequest
from starlette.datastructures import Headers

from headrace.errors import InvalidRequest
from headrace.ids import choose_shard, new_job_id
from headrace.ports import Submission
from headrace.request import Endpoint, Lane, Request
from headrace.wire.draft import Draft, draft, read_fields
from headrace.wire.json_object import fingerprint, parse_object
from headrace.wire.prompter import Prompters
from producer_api.body import read_body
from producer_api.services import Services
from producer_api.written import written

JOBS = "/v1/jobs"

OFF_LOOP_BYTES = 16_384
"""Bodies from this size on are parsed and tokenized in a thread: text takes half a second per megabyte, and every stream would stall."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")
_INT63 = 2**63


class Admitted(NamedTuple):
    request: Request
    """As stored; a replay answers in the shape its first request asked for."""
    replayed: bool


def read_draft(raw: bytes, path: str, prompters: Prompters, seed: int) -> tuple[Draft, str]:
    """The body's draft and its fingerprint. Raises RequestError, ModelUnavailable. `seed` is used if the body names none."""
    parsed = parse_object(raw)
    body = read_fields(parsed, _endpoint(path, parsed))
    if path != JOBS:
        body.check_streaming()
    drafted = draft(body, prompters, seed)
    # A job is read as its reader likes, whatever its body says.
    return (replace(drafted, stream=False) if path == JOBS else drafted), fingerprint(path, parsed)


def _endpoint(path: str, body: Mapping[str, Any]) -> Endpoint:
    if path != JOBS:
        return Endpoint(path)
    if ("messages" in body) == ("prompt" in body):
        raise InvalidRequest("A job needs either 'messages' (a chat) or 'prompt' (a completion).", param="messages")
    return Endpoint.CHAT if "messages" in body else Endpoint.COMPLETIONS


async def admit(services: Services, http: HttpRequest, tenant: str, *, lane: Lane, attended: bool) -> Admitted:
    """Read, check and store the call's request. Raises RequestError, ModelUnavailable, QueueFull, QueueUnavailable."""
    started = time.perf_counter()
    key = idempotency_key(http.headers)
    ttl_ms = time_to_live_ms(http.headers, services.settings.job_ttl_s)
    raw = await read_body(http, services.settings.max_body_bytes)
    arguments = raw, http.url.path, services.catalog.get, secrets.randbelow(_INT63)
    drafted, body_hash = await asyncio.to_thread(read_draft, *arguments) if len(raw) >= OFF_LOOP_BYTES else read_draft(*arguments)
    now_ms = time.time_ns() // 1_000_000
    request = Request(
        id=new_job_id(choose_shard(tenant, key, services.queue.shards), now_ms),
        tenant=tenant,
        model=drafted.model,
        endpoint=drafted.endpoint,
        lane=lane,
        prompt_ids=drafted.prompt_ids,
        sampling=drafted.sampling,
        created=now_ms // 1000,
        stream=drafted.stream,
        attended=attended,
        include_usage=drafted.include_usage,
        return_token_ids=drafted.return_token_ids,
        echo=drafted.echo,
    )
    submission = Submission(request=request, idempotency_key=key, body_hash=body_hash, ttl_ms=ttl_ms)
    accepted = await written(lambda: services.queue.accept(submission))
    services.metrics.accept_seconds.observe(time.perf_counter() - started)
    if accepted.job_id == request.id:
        return Admitted(request, replayed=False)
    first = await services.queue.get(tenant, accepted.job_id)
    if attended:
        # Its first viewer may have left a grace period ago, less a moment.
        await services.queue.attend([first.request.id])
    return Admitted(first.request, replayed=True)


def idempotency_key(headers: Headers) -> str | None:
    """Raises InvalidRequest unless it is 1 to 255 visible ASCII characters, or absent."""
    key = headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidRequest(
            f"'Idempotency-Key' must be 1 to 255 visible ASCII characters, got {len(key)} characters.", param="Idempotency-Key"
        )
    return key


def time_to_live_ms(headers: Headers, longest_s: int) -> int:
    """How long the request may live, from X-Request-Timeout (seconds), else the longest. Raises InvalidRequest."""
    given = headers.get("x-request-timeout")
    if given is None:
        return longest_s * 1000
    if not _SECONDS.fullmatch(given) or not 1 <= float(given) <= longest_s:
        raise InvalidRequest(f"'X-Request-Timeout' must be 1 to {longest_s} seconds, got {given[:40]!r}.", param="X-Request-Timeout")
    return int(float(given) * 1000)
