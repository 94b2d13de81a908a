"""The ports of the queue: what the three processes ask of the state store.

One adapter implements all of them on Redis or Valkey (`queues/redis.py`), another in the process for tests (`testing/queue/memory.py`); the
contract suite runs against each. Rules that hold for every method:

* A transition is atomic: it happened whole or not at all.
* A write is idempotent by construction. After `QueueUnavailable` the caller repeats the same call with the same arguments, and a call that
  had in fact been carried out answers as it did, or as a duplicate of it. No adapter lets its client library retry on its own.
* Time is the store's own clock, never the caller's.
* A job belongs to a tenant. Reads and cancels name the tenant, and another tenant's job raises `JobNotFound`, as does an unknown id.
* A worker's right to a job is its lease, fenced by the job's epoch. Every write under an older epoch is refused for ever.
* Doorbells are hints: they may be lost, doubled or late. Whoever waits for one also looks by himself now and then.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from headrace.cursor import LogPosition
from headrace.death import Death
from headrace.job import Job, LogEntry
from headrace.load import Load
from headrace.logprobs import Logprobs
from headrace.request import Lane, Request
from headrace.state import State
from headrace.worker_status import WorkerStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What `accept` stores."""

    request: Request
    idempotency_key: str | None
    """Unique per tenant. None: two equal submissions are two jobs."""
    body_hash: str
    """Tells a repeated submission from another one under the same key."""
    ttl_ms: int
    """The job expires this long after it was accepted."""


@dataclass(frozen=True, slots=True)
class Accepted:
    job_id: str
    replayed: bool
    """The key was known: the id is the earlier job's, and nothing was stored."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """The answer to `reserve`. Where the key was known, it is the earlier job's."""

    job_id: str
    withheld: bool
    """It waits to be admitted. False: that was done, or it has ended."""


class Doorbell(Protocol):
    """Hints that something may have changed."""

    async def wait(self, timeout: float) -> frozenset[str]:
        """Names rung since the last call: at once if there are any, else when one rings or after `timeout` seconds (then empty).

        Never raises for a lost connection: it reconnects by itself and meanwhile the caller's timeout does the work.
        """
        ...


class JobQueue(Protocol):
    """The submitter's side (API processes)."""

    @property
    def shards(self) -> int: ...

    async def ping(self) -> None:
        """Raises QueueUnavailable or QueueFull unless the store takes new work."""
        ...

    async def accept(self, submission: Submission) -> Accepted:
        """Store the request durably and put it in its lane.

        Idempotent by (tenant, idempotency key), and by job id where there is no key. An attended request must be `attend`ed within the
        viewer grace, counted from now. Bounds are the adapter's settings: live jobs and their token cost, of a tenant and in all.

        Raises IdempotencyConflict (the key's first body hash differs), QueueFull or TenantFull (a bound is reached), RequestTooLarge (the
        request alone exceeds one). How long to wait is measured in the store, by how fast jobs end, so all submitters are told the same.
        """
        ...

    async def get(self, tenant: str, job_id: str) -> Job:
        """Raises JobNotFound, JobPurged."""
        ...

    async def list_jobs(self, tenant: str, *, after: str | None, limit: int) -> list[Job]:
        """Newest first, starting behind job id `after`. Raises JobNotFound if `after` is not the tenant's.

        Without the lines of batch files (lane `batch`): they are found by their batch.
        """
        ...

    async def queue_position(self, tenant: str, job_id: str) -> int | None:
        """1 = next in its lane among the tenant's own jobs, or, of a suspect, among all suspects of its model; None unless queued."""
        ...

    async def read_log(self, tenant: str, job_id: str, after: LogPosition, limit: int) -> list[LogEntry]:
        """Entries strictly behind `after`, oldest first. Raises JobNotFound, JobPurged."""
        ...

    async def read_logs(self, wants: Sequence[tuple[str, LogPosition]], limit: int) -> list[list[LogEntry]]:
        """`read_log` for many jobs in one round trip, by job id alone: the caller has checked the tenant. A missing log reads as empty."""
        ...

    async def states(self, job_ids: Sequence[str]) -> list[State | None]:
        """Where many jobs stand, in one round trip, by id alone: the caller made the ids. None: never accepted, or purged."""
        ...

    async def get_many(self, tenant: str, job_ids: Sequence[str]) -> list[Job | None]:
        """`get` in one round trip; None where it would raise."""
        ...

    async def forget(self, job_ids: Sequence[str]) -> None:
        """Purge jobs that have ended, now: whoever read their logs has no more use for them. Others are left alone."""
        ...

    async def cancel(self, tenant: str, job_id: str) -> State:
        """End a queued or delayed job now; flag a running one for its owner; leave an ended one. Returns the state after it."""
        ...

    async def attend(self, job_ids: Sequence[str]) -> None:
        """Somebody still waits for these attended jobs: restart their viewer grace. Ids that are not attended or live are ignored."""
        ...

    def log_doorbell(self) -> AbstractAsyncContextManager[Doorbell]:
        """Rings with the id of every job whose log grew. Entering returns once the subscription stands."""
        ...

    async def load(self) -> Load: ...

    async def workers(self) -> list[WorkerStatus]:
        """Workers, standbys among them, that reported within their status' lifetime."""
        ...

    async def swept_ms_ago(self) -> int | None:
        """Milliseconds since a janitor last ended a round. None: unknown; none ever did, or those that run are too old to say so."""
        ...


class RequestLog(Protocol):
    """A log of requests in front of the store, to which every acceptance is written before its submitter hears of it."""

    @property
    def down(self) -> str | None:
        """Why it takes nothing now; None: it does, for all that is known."""
        ...

    def watch(self, told: Callable[[float, bool], None]) -> None:
        """Tell of every append from now on: how many seconds it took, and whether it was acknowledged."""
        ...


class Intake(Protocol):
    """Acceptance in two steps, for whoever keeps a log of requests in front of the store: reserve, write it to the log, admit.

    A job that is reserved and not yet admitted is *withheld*: to its submitter it is queued, counts against the bounds, and can be listed,
    waited for and cancelled, but no worker gets it.
    """

    async def reserve(self, submission: Submission) -> Reserved:
        """`accept`, bounds and all, but withheld, for the adapter's `reservation_ms`: see `forget_lapsed`. No viewer is missed before it is
        admitted. Raises as `accept`."""
        ...

    async def admit(self, submission: Submission) -> Accepted:
        """The log has it: put it in its lane, where it was withheld; its viewer grace begins. By id it is one job, however often it is
        admitted: `replayed` where it was in its lane before, has ended, was withdrawn or purged.

        One that the store does not know, as it lost it or the reservation lapsed, is stored as by `accept`. It was promised already, so no
        bound of its tenant refuses it. Raises IdempotencyConflict, RequestTooLarge; and QueueFull, after which it is to be repeated for as
        long as it takes.
        """
        ...

    async def withdraw(self, tenant: str, job_id: str) -> bool:
        """Undo a reservation, for good: admitting it later does nothing. Its key, if it had one, is free again. False: it was admitted or
        has ended, and nothing was done."""
        ...

    async def generation(self) -> int:
        """How often this store was begun anew from a log; 0 where nobody has said so."""
        ...

    async def begin_generation(self, generation: int) -> None:
        """Jobs that are stored from now on have epochs above those of every earlier generation, so that a cursor tells which it is from.
        One that is not above the current generation changes nothing. Raises ValueError beyond what an epoch can say."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A job leased to a worker."""

    request: Request
    epoch: int
    committed: int
    """Tokens already in the log: resume behind them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Append:
    """Tokens of one choice of a job from one engine step. `start` is the count the job had committed before it, all choices together."""

    job_id: str
    epoch: int
    start: int
    token_ids: tuple[int, ...]
    text: str
    choice: int = 0
    logprobs: tuple[Logprobs, ...] = ()
    prompt_logprobs: tuple[Logprobs, ...] = ()
    cached_tokens: int | None = None
    """Tokens of the prompt that the engine found computed when it began the job's first choice. None: not told. Of a job the first that is
    told is kept, whatever later attempts find, and stands in its end marker."""


@dataclass(frozen=True, slots=True)
class Held:
    """A job that a worker believes it holds."""

    job_id: str
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """The end of a job. `committed` must equal the log's count. `state` is DONE, FAILED, CANCELLED or EXPIRED."""

    job_id: str
    epoch: int
    committed: int
    state: State
    reason: str


class Verdict(StrEnum):
    """The store's answer to a worker about one job."""

    OK = "ok"
    """Done, now or by an earlier equal call."""
    CANCEL = "cancel"
    """Done, and the owner of the job wants it stopped: finish it as CANCELLED."""
    EXPIRE = "expire"
    """Done, and the job's deadline is over: finish it as EXPIRED."""
    FENCED = "fenced"
    """Not the holder (any more): drop the job, write nothing."""
    GAP = "gap"
    """The count does not match the log: the caller's state is wrong; give the job back."""


class WorkQueue(Protocol):
    """The worker's side."""

    async def claim(
        self, *, worker: str, nonce: str, models: Sequence[str], lanes: Sequence[Lane], max_jobs: int, max_tokens: int, lease_ms: int
    ) -> list[Claim]:
        """Lease the best jobs of the lanes, the first lane first, tenants within a lane by fairness, a tenant's own by arrival. Suspects
        are not among them.

        Stops at `max_jobs`, or before the job whose prompt + committed tokens would exceed what is left of `max_tokens` (a prompt counts
        once for each choice): nothing behind it is taken in its place, so no large job starves. Each lease gets a new epoch. The same
        `nonce` from the same worker answers with the jobs of the first call that are still under its lease and epoch, and leases nothing
        more.
        """
        ...

    async def claim_suspect(self, *, worker: str, nonce: str, models: Sequence[str], lease_ms: int) -> Claim | None:
        """Lease the suspect that has waited longest, whatever its size, lane and tenant, if it is this worker's turn to run suspects.

        Only for a worker that holds nothing and that claims nothing more until this job has ended or made progress; so if the worker dies,
        it was this job's doing. Turns: for a while one worker gets the suspects, then for as long none does. `nonce` as in `claim`.
        """
        ...

    async def summon(self, *, worker: str, models: Sequence[str]) -> bool:
        """Asked by a busy worker: suspects wait in vain for an idle one, and it is this worker's turn. It should give back all it holds
        and then call `claim_suspect`."""
        ...

    async def append(self, appends: Sequence[Append]) -> list[Verdict]:
        """Commit tokens of many jobs, in order, and ring for each job once. A repeated append is OK and writes nothing."""
        ...

    async def renew(self, held: Sequence[Held], lease_ms: int) -> list[Verdict]:
        """Extend leases. An ended job is FENCED."""
        ...

    async def finish(self, finishes: Sequence[Finish]) -> list[Verdict]:
        """Write the end marker, the outcome and the outbox entry, and free the lease. Repeating it is OK.

        A job that is CANCELLED because somebody asked for it keeps that reason.
        """
        ...

    async def release(self, held: Sequence[Held], delay_ms: int) -> list[Verdict]:
        """Give jobs back at their committed count, to their old place or to wait `delay_ms`. No crash is counted. The epoch moves on."""
        ...

    async def read_log(self, tenant: str, job_id: str, after: LogPosition, limit: int) -> list[LogEntry]: ...

    async def states(self, job_ids: Sequence[str]) -> list[State | None]:
        """As for submitters."""
        ...

    async def report(self, status: WorkerStatus, ttl_ms: int) -> None: ...

    async def reap_worker(self, worker: str) -> list[str]:
        """A supervisor saw exactly this worker die: requeue all it held at once and count a crash for each. Returns the job ids.

        A job that lost two workers without a token between is a suspect from then on, until it makes progress: only `claim_suspect` hands
        it out. It is DEAD once it crashed as many workers as the adapter's limit says while it ran alone. What shares a worker with it is
        never DEAD.
        """
        ...

    def work_doorbell(self) -> AbstractAsyncContextManager[Doorbell]:
        """Rings with the lane of every job that became claimable, and with the id of every running job that was cancelled."""
        ...


class Housekeeping(Protocol):
    """The janitor's side. Every method is a bounded sweep and says how many jobs it moved; any number of janitors may run at once."""

    async def reap_expired(self, limit: int) -> int:
        """Requeue jobs whose lease ran out. Weak evidence: as much as an eighth of a crash."""
        ...

    async def deaths(self, limit: int) -> list[Death]:
        """Jobs that became DEAD, whoever reaped them, each of them told once. A reply that is lost takes its deaths along: they are for the
        log, and the jobs themselves are in the outbox."""
        ...

    async def promote(self, limit: int) -> int:
        """Queue delayed jobs that are due."""
        ...

    async def expire(self, limit: int) -> int:
        """End queued and delayed jobs whose deadline passed."""
        ...

    async def cancel_unattended(self, limit: int) -> int:
        """Cancel attended jobs whose viewer grace ran out."""
        ...

    async def purge(self, limit: int) -> int:
        """Delete ended jobs whose retention is over; a tombstone answers JobPurged for a while."""
        ...

    async def forget_lapsed(self, limit: int) -> int:
        """Forget reservations that were not admitted in time, as if they had never been made: whatever the log has of one is news then."""
        ...

    async def end_round(self) -> None:
        """Every sweep was made: leave the time."""
        ...

    async def load(self) -> Load: ...
