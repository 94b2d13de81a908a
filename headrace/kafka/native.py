"""Requests of native clients: what a record of the requests topic asks for, and on whose behalf. Any bytes give a verdict.

    value     {"id": "order-17", "endpoint": "/v1/chat/completions", "body": {…}}      docs/schemas/kafka-request.json
    headers   authorization: Bearer <key>      where keys are asked for
              priority: interactive | standard | batch
              deadline: Unix milliseconds at which it is of no use any more
              tokens: true                      to have its tokens told too
              traceparent: …                    is a header of the result too

Two ways out. A record that cannot be read, or whose sender is unknown, goes to the dead letters: nobody could be answered. One that can,
but asks for what cannot be run, is answered with the error, as a line of a batch is.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from headrace.errors import InvalidRequest, RequestError
from headrace.ids import choose_shard, derived_job_id, derived_seed
from headrace.kafka.log_record import LogRecord
from headrace.keys import ANYBODY, bearer_key
from headrace.ports import Submission
from headrace.request import Endpoint, Lane, Request
from headrace.wire.draft import Draft, draft, read_fields
from headrace.wire.fields import Strict
from headrace.wire.json_object import fingerprint, parse_object
from headrace.wire.native_key import native_key
from headrace.wire.problems import explain
from headrace.wire.prompter import Prompters

AUTHORIZATION, PRIORITY, DEADLINE, TOKENS = "authorization", "priority", "deadline", "tokens"
TRACEPARENT = "traceparent"
MAX_ID = 255

_ID = re.compile(r"[\x21-\x7e]{1,255}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, as it says to read every version but ff; any other is to be ignored."""
_MILLISECONDS = re.compile(r"[0-9]{1,15}")
TenantOf = Callable[[str], str | None]
"""The tenant of an API key."""


class DeadLetter(Exception):
    """Nobody can be answered: the record cannot be read, or nobody knows whose it is. Its text is the reason."""


class NativeBody(Strict):
    """The value of a record."""

    id: Annotated[str, Field(min_length=1, max_length=MAX_ID)]
    endpoint: str = Endpoint.CHAT.value
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Native:
    """A readable request of a known tenant, not yet checked."""

    job_id: str
    tenant: str
    client_id: str
    endpoint: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def tells_tokens(self) -> bool:
        """The caller wants its tokens in the tokens topic. Raises InvalidRequest."""
        given = self.headers.get(TOKENS, "false").lower()
        if given not in ("true", "false"):
            raise InvalidRequest(f"The header 'tokens' must be true or false, got {given[:40]!r}.", param=TOKENS)
        return given == "true"

    @property
    def traceparent(self) -> str | None:
        return self.headers.get(TRACEPARENT)


def read_native(record: LogRecord, tenant_of: TenantOf | None, shards: int) -> Native:
    """Raises DeadLetter. Without `tenant_of` no key is asked for, and everybody is one tenant."""
    headers = _headers(record)
    tenant = ANYBODY if tenant_of is None else _identify(headers, tenant_of)
    try:
        value = NativeBody.model_validate(parse_object(record.value or b""))
    except ValidationError as error:
        raise DeadLetter(explain(error).message) from None
    except InvalidRequest as error:
        raise DeadLetter(error.message.replace("The body", "The record's value", 1)) from None
    if not _ID.fullmatch(value.id):
        raise DeadLetter("'id' must be 1 to 255 visible ASCII characters.")
    shard = choose_shard(tenant, native_key(value.id), shards)
    origin = f"{record.place}:{record.timestamp_ms}"
    return Native(
        job_id=derived_job_id(origin, shard=shard, created_ms=record.timestamp_ms),
        tenant=tenant,
        client_id=value.id,
        endpoint=value.endpoint,
        body=value.body,
        headers=headers,
    )


def submission_of(native: Native, prompters: Prompters, *, now_ms: int, longest_ms: int) -> Submission:
    """What to accept. May take a second for megabytes of text. Raises RequestError, ModelUnavailable."""
    endpoint = _endpoint(native.endpoint)
    lane, ttl_ms = _lane(native.headers), _time_to_live_ms(native.headers, now_ms, longest_ms)
    drafted = draft(read_fields(native.body, endpoint), prompters, derived_seed(native.job_id))
    return Submission(
        request=_request(native, drafted, lane),
        idempotency_key=native_key(native.client_id),
        body_hash=fingerprint(endpoint.value, dict(native.body)),
        ttl_ms=ttl_ms,
    )


def _request(native: Native, drafted: Draft, lane: Lane) -> Request:
    return Request(
        id=native.job_id,
        tenant=native.tenant,
        model=drafted.model,
        endpoint=drafted.endpoint,
        lane=lane,
        prompt_ids=drafted.prompt_ids,
        sampling=drafted.sampling,
        created=int(native.job_id[2:15], 16) // 1_000,
        # Whether its tokens are told is a header's business.
        stream=False,
        attended=False,
        return_token_ids=drafted.return_token_ids,
        echo=drafted.echo,
    )


def _headers(record: LogRecord) -> dict[str, str]:
    """By name in small letters; of two alike the last counts, as with HTTP's clients that overwrite. Raises DeadLetter."""
    headers = {}
    for name, value in record.headers:
        if name.lower() in (AUTHORIZATION, PRIORITY, DEADLINE, TOKENS):
            try:
                headers[name.lower()] = (value or b"").decode("ascii")
            except UnicodeDecodeError:
                raise DeadLetter(f"The header '{name.lower()}' must be ASCII.") from None
        elif name.lower() == TRACEPARENT and _TRACEPARENT.fullmatch(value or b""):
            headers[TRACEPARENT] = (value or b"").decode()
    return headers


def _identify(headers: Mapping[str, str], tenant_of: TenantOf) -> str:
    """Raises DeadLetter, which shows nothing of the key."""
    given = headers.get(AUTHORIZATION)
    if given is None:
        raise DeadLetter("No API key was given: send the header 'authorization' with 'Bearer <key>'.")
    key = bearer_key(given)
    if key is None:
        raise DeadLetter("The header 'authorization' must be 'Bearer <key>'.")
    tenant = tenant_of(key)
    if tenant is None:
        raise DeadLetter("The API key is not known here.")
    return tenant


def _endpoint(given: str) -> Endpoint:
    try:
        return Endpoint(given)
    except ValueError:
        known = ", ".join(f"'{one.value}'" for one in Endpoint)
        raise InvalidRequest(f"'endpoint' must be one of {known}, got {given[:80]!r}.", param="endpoint") from None


def _lane(headers: Mapping[str, str]) -> Lane:
    given = headers.get(PRIORITY, Lane.STANDARD.value)
    try:
        return Lane(given)
    except ValueError:
        known = ", ".join(one.value for one in Lane)
        raise InvalidRequest(f"The header 'priority' must be one of {known}, got {given[:40]!r}.", param=PRIORITY) from None


def _time_to_live_ms(headers: Mapping[str, str], now_ms: int, longest_ms: int) -> int:
    """Without a deadline of its own it lives as long as any job, counted from now: a client's clock may stand anywhere."""
    given = headers.get(DEADLINE)
    if given is None:
        return longest_ms
    if not _MILLISECONDS.fullmatch(given):
        raise InvalidRequest(f"The header 'deadline' must be Unix milliseconds, got {given[:40]!r}.", param=DEADLINE)
    left = int(given) - now_ms
    if left <= 0:
        raise DeadlinePassed(f"The request's deadline passed {-left} ms before it was read.", param=DEADLINE)
    return min(left, longest_ms)


class DeadlinePassed(RequestError):
    """It came too late to be run."""

    status = 504
    code = "deadline_exceeded"
