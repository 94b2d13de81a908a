"""The job object of /v1/jobs. Times are Unix seconds."""

from collections.abc import Sequence
from typing import Any

from headrace.cursor import START, LogPosition
from headrace.job import Job, LogEntry
from headrace.ports import JobQueue
from headrace.request import Request
from headrace.state import TERMINAL, State
from headrace.wire.answers import usage
from headrace.wire.outcomes import ended_error
from headrace.wire.prompter import Prompters
from producer_api.answering import render_answer

_PAGE = 1_000


def receipt(request: Request) -> dict[str, Any]:
    """What a submission is answered with. Nothing in it changes, so a replay gets the same."""
    return {
        "id": request.id,
        "object": "job",
        "endpoint": request.endpoint,
        "model": request.model,
        "created_at": request.created,
        "links": {"self": self_link(request.id), "events": f"{self_link(request.id)}/events", "cancel": f"{self_link(request.id)}/cancel"},
    }


def self_link(job_id: str) -> str:
    return f"/v1/jobs/{job_id}"


def job_summary(job: Job) -> dict[str, Any]:
    """A job in a list: all but what takes more than one look at the store (its place in the queue, its text, its cached tokens)."""
    failed = job.state in TERMINAL and job.state is not State.DONE
    return {
        **receipt(job.request),
        "status": job.state,
        "cancel_requested": job.cancel_requested,
        "started_at": _seconds(job.started_ms),
        "ended_at": _seconds(job.ended_ms),
        "deadline_at": _seconds(job.deadline_ms),
        "usage": usage(job.request, job.committed, None),
        "error": ended_error(job.state, job.reason) if failed else None,
    }


async def job_object(queue: JobQueue, job: Job, prompters: Prompters) -> dict[str, Any]:
    """A job with its text so far (that of its first choice) and, once it is done, its answer.

    Raises as JobQueue.read_log, and ModelNotFound or ModelUnavailable for an answer whose tokens only the model can spell.
    """
    log = await _whole_log(queue, job)
    position = await queue.queue_position(job.request.tenant, job.request.id) if job.state is State.QUEUED else None
    return {
        **job_summary(job),
        "queue_position": position,
        # The log may have grown since the look at the job; the count goes with the text.
        "usage": usage(job.request, sum(len(entry.token_ids) for entry in log), log[-1].cached_tokens if log else None),
        "output_text": "".join(entry.text for entry in log if entry.choice == 0),
        "result": await render_answer(job.request, log, prompters) if job.state is State.DONE else None,
    }


async def _whole_log(queue: JobQueue, job: Job) -> Sequence[LogEntry]:
    log: list[LogEntry] = []
    after: LogPosition = START
    while page := await queue.read_log(job.request.tenant, job.request.id, after, _PAGE):
        log += page
        after = page[-1].position
        if len(page) < _PAGE:
            break
    return log


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000
