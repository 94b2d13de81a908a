"""What becomes of a line, as the line of a result file. Pure functions; the same line always gives the same bytes."""

from collections.abc import Sequence
from typing import Any

import orjson

from headrace.errors import RequestError
from headrace.files.journal import Result
from headrace.job import Job, LogEntry
from headrace.state import State
from headrace.wire.answers import whole_answer
from headrace.wire.outcomes import OUTCOMES, ended_error, error_object
from headrace.wire.spelling import Spelling

_UNDONE = {
    "result_lost": "The result of this request was lost with the disk it was on.",
    "batch_cancelled": "This request was not finished: the batch was cancelled.",
    "batch_expired": "This request could not be executed before the completion window expired.",
}


def ended_result(line: int, custom_id: str, job: Job, log: Sequence[LogEntry], spelling: Spelling | None) -> Result:
    """The result of a line whose job has ended, from its whole log."""
    job_id = job.request.id
    if job.state is State.DONE:
        data = _responded(job_id, custom_id, 200, whole_answer(job.request, log, spelling))
        return Result(line, True, len(job.request.prompt_ids), job.committed, data)
    error = ended_error(job.state, job.reason)
    return Result(line, False, 0, 0, _responded(job_id, custom_id, OUTCOMES[job.state].status, {"error": error}))


def refused_result(line: int, custom_id: str, job_id: str, error: RequestError) -> Result:
    """The result of a line that cannot be run, though its file passed the checks."""
    body = {"error": error_object(error.message, status=error.status, code=error.code, param=error.param)}
    return Result(line, False, 0, 0, _responded(job_id, custom_id, error.status, body))


def undone_line(custom_id: str, job_id: str, code: str) -> bytes:
    """The error line of a line that the batch ended without: `code` is "batch_cancelled", "batch_expired" or "result_lost"."""
    return _line(job_id, custom_id, None, {"code": code, "message": _UNDONE[code]})


def _responded(job_id: str, custom_id: str, status: int, body: dict[str, Any]) -> bytes:
    return _line(job_id, custom_id, {"status_code": status, "request_id": f"req_{job_id}", "body": body}, None)


def _line(job_id: str, custom_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    return orjson.dumps({"id": f"batch_req_{job_id}", "custom_id": custom_id, "response": response, "error": error})
