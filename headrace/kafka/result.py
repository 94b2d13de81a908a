"""What is told of the end of a job, as a record of the results topic, and of a record that nobody could read, as a dead letter. Pure
functions; the same end always gives the same bytes.

    key       the job's id; two tenants may use one id for two requests, and a tenant the same one again after the retention
    value     {"id", "job_id", "tenant", "state", "status_code", "response", "error", "accepted_ms", "started_ms", "ended_ms"}

docs/schemas/kafka-result.json has the fields. `id` is the client's own, or the job's where the API took the request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from headrace.cursor import MAX_GENERATION
from headrace.errors import RequestError
from headrace.job import Job, LogEntry
from headrace.kafka.log_record import UNREADABLE, LogRecord
from headrace.kafka.native import AUTHORIZATION, TRACEPARENT, Native
from headrace.request import Request
from headrace.state import State
from headrace.wire.answers import whole_answer
from headrace.wire.outcomes import OUTCOMES, ended_error, error_object
from headrace.wire.spelling import Spelling

Headers = tuple[tuple[str, bytes], ...]

_GENERATION = b"generation"

REFUSED = "refused"
"""The state of a request that was never accepted."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to be written."""

    key: bytes
    value: bytes
    headers: Headers = ()


def ended_record(
    job: Job, client_id: str | None, log: Sequence[LogEntry], spelling: Spelling | None, traceparent: str | None = None
) -> Outgoing:
    """Of a job that has ended, from its whole log."""
    times = {"accepted_ms": job.accepted_ms, "started_ms": job.started_ms, "ended_ms": job.ended_ms}
    about = {"id": client_id or job.request.id, "job_id": job.request.id, "tenant": job.request.tenant, "state": job.state.value}
    if job.state is not State.DONE:
        error = ended_error(job.state, job.reason)
        return _traced(_outgoing(about, OUTCOMES[job.state].status, None, error, times), traceparent)
    return _traced(_outgoing(about, 200, whole_answer(job.request, log, spelling), None, times), traceparent)


def without_answer(result: Outgoing) -> Outgoing:
    """The same end without its answer, which is too large for the log: the error says where it is."""
    value = orjson.loads(result.value)
    message = f"The result has {len(result.value)} bytes, more than the log takes: read it by GET /v1/jobs/{value['job_id']}."
    error = error_object(message, status=413, code="result_too_large")
    return Outgoing(result.key, orjson.dumps(value | {"status_code": 413, "response": None, "error": error}), result.headers)


def refused_record(native: Native, error: RequestError) -> Outgoing:
    """Of a native request that cannot be run."""
    about = {"id": native.client_id, "job_id": native.job_id, "tenant": native.tenant, "state": REFUSED}
    return _traced(_refused(about, error), native.traceparent)


def unkept_record(request: Request, error: RequestError) -> Outgoing:
    """Of a request that the API has accepted and the state store lost, and that it does not take again: meanwhile another one has its key,
    or a bound is lower."""
    return _refused({"id": request.id, "job_id": request.id, "tenant": request.tenant, "state": REFUSED}, error)


def _refused(about: Mapping[str, Any], error: RequestError) -> Outgoing:
    body = error_object(error.message, status=error.status, code=error.code, param=error.param)
    return _outgoing(about, error.status, None, body, dict.fromkeys(("accepted_ms", "started_ms", "ended_ms")))


def generation_record(generation: int) -> Outgoing:
    """Of no job: that a state store was filled from the log, and which generation it is. One key, so that compaction keeps the latest."""
    return Outgoing(_GENERATION, orjson.dumps({"id": None, "state": "generation", "generation": generation}))


def generation_in(record: LogRecord) -> int:
    """0 of any other record."""
    if record.key != _GENERATION:
        return 0
    try:
        generation = orjson.loads(record.value or b"")["generation"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return 0
    return generation if isinstance(generation, int) and 0 <= generation <= MAX_GENERATION else 0


def tokens_record(job_id: str, client_id: str, entry: LogEntry) -> Outgoing:
    """One entry of a job's token log. Its position only ever rises: whoever has read it knows a repetition, and after a restart of the
    state store from nothing the epoch tells that the text began anew."""
    value = {
        "id": client_id,
        "job_id": job_id,
        "position": str(entry.position),
        "choice": entry.choice,
        "token_ids": entry.token_ids,
        "text": entry.text,
        "end": None if entry.end is None else entry.end.value,
    }
    return Outgoing(job_id.encode(), orjson.dumps(value))


def dead_letter(record: LogRecord, reason: str, *, whole: bool = True) -> Outgoing:
    """The record as it came, but for the API key that it may hold: who may read dead letters must not be able to pass for their senders.
    Not `whole`: without its value and headers, which are too large with what is added."""
    kept = tuple((name, value or b"") for name, value in record.headers if name.lower() != AUTHORIZATION and name != UNREADABLE)
    told = (
        ("headrace-reason", reason.encode()),
        ("headrace-origin", record.place.encode()),
        ("headrace-key", record.key or b""),
    )
    return Outgoing(record.place.encode(), record.value or b"", (*kept, *told)) if whole else Outgoing(record.place.encode(), b"", told[:2])


def _traced(result: Outgoing, traceparent: str | None) -> Outgoing:
    return result if traceparent is None else replace(result, headers=(*result.headers, (TRACEPARENT, traceparent.encode())))


def _outgoing(
    about: Mapping[str, Any], status: int, response: dict[str, Any] | None, error: Mapping[str, Any] | None, times: Mapping[str, int | None]
) -> Outgoing:
    value = {**about, "status_code": status, "response": response, "error": error, **times}
    headers = (("id", about["id"].encode()), ("state", about["state"].encode()))
    return Outgoing(about["job_id"].encode(), orjson.dumps(value), headers)
