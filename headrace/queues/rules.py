"""What every adapter of the queue shares: bounds, the outcome of a lost lease, and the checks of what callers hand in."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from headrace.cursor import MAX_GENERATION
from headrace.errors import HeadraceError, IdempotencyConflict, JobNotFound, JobPurged, QueueFull, RequestTooLarge, TenantFull
from headrace.ids import is_in_shards
from headrace.ports import Append, Finish
from headrace.queues.meter import wait_s
from headrace.request import Request
from headrace.state import State

CANCELLED = "cancelled"
UNATTENDED = "unattended"
DEADLINE = "deadline"

NO_MEMORY_RETRY_S = 30.0
"""What a caller is told when the store itself is full: no rate says when retained jobs are purged, or somebody makes room."""

CLAIM_MEMORY_MS = 60_000
"""How long a claim's nonce is known beyond its lease. A caller that repeats later finds its leases gone anyway."""

HEADS_PER_CLAIM = 128
"""Queue heads one claim looks at beyond those it takes: a backlog of expired jobs must not hold the store for long."""

STRIKES_PER_CRASH = 8
"""Every lease that is lost is a strike against its job, and progress wipes them out. A worker's death that was seen weighs this much more
than a lease that ran out, which happens under overload too."""

SUSPECT_STRIKES = 2 * STRIKES_PER_CRASH
"""From here on a job is a suspect, and is run alone: whatever shares a worker with a poisonous job gets as many strikes as that job, so
only what happens to it alone tells the two apart."""

TURN_MS = 5_000
"""How long a worker runs suspects at a time, and how long it is nobody's turn afterwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueLimits:
    """Bounds of one shard, and the times the store keeps. See `headrace/settings.py`."""

    max_live_jobs: int = 1_000_000
    max_live_cost: int = 2_000_000_000
    max_tenant_jobs: int | None = None
    """None: as for all."""
    max_tenant_cost: int | None = None
    max_solo_crashes: int = 3
    retention_ms: int = 86_400_000
    viewer_grace_ms: int = 15_000
    reservation_ms: int = 3_600_000
    """How long a job may be withheld: longer than any write to a log takes, or is repeated."""


class Bound(StrEnum):
    """What `accept` keeps below a limit."""

    JOBS = "jobs"
    COST = "cost"
    TENANT_JOBS = "tenant jobs"
    TENANT_COST = "tenant cost"


def limit_of(bound: Bound, limits: QueueLimits) -> int:
    match bound:
        case Bound.JOBS:
            return limits.max_live_jobs
        case Bound.COST:
            return limits.max_live_cost
        case Bound.TENANT_JOBS:
            return limits.max_tenant_jobs or limits.max_live_jobs
        case Bound.TENANT_COST:
            return limits.max_tenant_cost or limits.max_live_cost


def refusal(bound: Bound, limit: int, *, cost: int, current: int, drained: int, span_ms: int) -> HeadraceError:
    """What a submission of `cost` tokens is told that would break the bound. `current` of it is live, `drained` left in `span_ms`."""
    if bound in (Bound.JOBS, Bound.TENANT_JOBS):
        needed, said = current + 1 - limit, f"{current} live jobs, the limit is {limit}"
    elif cost > limit:
        return RequestTooLarge(f"The request needs {cost} tokens, prompt and answer; at most {limit} may be live at once.")
    else:
        needed, said = current + cost - limit, f"{current} tokens of live jobs, the limit is {limit} and this one needs {cost}"
    retry_after = wait_s(needed, drained, span_ms)
    if bound in (Bound.TENANT_JOBS, Bound.TENANT_COST):
        return TenantFull(f"your tenant has {said}", retry_after=retry_after)
    return QueueFull(f"the queue is full: {said}", retry_after=retry_after)


class Reaped(NamedTuple):
    """What becomes of a job whose lease was taken away."""

    state: State
    reason: str = ""


def strikes(crashes: int, expiries: int) -> int:
    return STRIKES_PER_CRASH * crashes + expiries


def is_suspect(crashes: int, expiries: int) -> bool:
    return strikes(crashes, expiries) >= SUSPECT_STRIKES


def reaped(*, crashes: int, expiries: int, cancel: str, overdue: bool, max_solo_crashes: int) -> Reaped:
    """Counts include this loss. `cancel` is the reason of a pending cancel or empty.

    A suspect is never run in company, so all strikes beyond SUSPECT_STRIKES are its own.
    """
    if cancel:
        return Reaped(State.CANCELLED, cancel)
    if overdue:
        return Reaped(State.EXPIRED, DEADLINE)
    if strikes(crashes, expiries) >= SUSPECT_STRIKES + STRIKES_PER_CRASH * max_solo_crashes:
        return Reaped(State.DEAD, f"its worker died {max_solo_crashes} times while it ran alone, without a token")
    return Reaped(State.QUEUED)


def check_request(request: Request, shards: int) -> None:
    """Raises ValueError for an id that names no shard of this store."""
    if not is_in_shards(request.id, shards):
        raise ValueError(f"request.id must be a job id of shards 0 to {shards - 1}, got {request.id[:40]!r}")


def check_generation(generation: int) -> None:
    if not 0 <= generation <= MAX_GENERATION:
        raise ValueError(f"generation must be 0 to {MAX_GENERATION}, got {generation}")


def check_appends(appends: Sequence[Append]) -> None:
    """An entry's position is its token count, so text without a token has no place of its own in the log. Raises ValueError."""
    for append in appends:
        if not append.token_ids:
            raise ValueError(f"append to job {append.job_id} has no token: text goes with the token that completes it")


def check_finishes(finishes: Sequence[Finish]) -> None:
    allowed = (State.DONE, State.FAILED, State.CANCELLED, State.EXPIRED)
    for finish in finishes:
        if finish.state not in allowed:
            raise ValueError(f"job {finish.job_id} cannot be finished as {finish.state}: use one of {', '.join(allowed)}")


def not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"No job has the id {job_id[:40]!r}.")


def purged(job_id: str) -> JobPurged:
    return JobPurged(f"Job {job_id} ended and its retention is over.")


def conflict(job_id: str) -> IdempotencyConflict:
    return IdempotencyConflict(f"The Idempotency-Key was used before with another body, by job {job_id}.")
