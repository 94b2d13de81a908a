"""Accepting with a log in front of the store.

check   ── the log is known to be away ──► the caller; nothing is left of it
   │
reserve ── refused: its bounds, its key ──► the caller
   │
append  ── not acknowledged ──► without a key: withdraw; with one: the repeat finds the reservation, and appends again
   │
admit   ── the store is away ──► accepted all the same: the pump admits what the log has
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from headrace.errors import JobNotFound, LogUnavailable, QueueFull, QueueUnavailable, RequestTooLarge
from headrace.job import Job
from headrace.ports import Accepted, Intake, Reserved, Submission

logger = logging.getLogger(__name__)

Append = Callable[[Submission], Awaitable[None]]


class Store(Intake, Protocol):
    async def get(self, tenant: str, job_id: str) -> Job: ...


class Acceptance:
    """`check` raises LogUnavailable while the log is known to take nothing. `append` returns once it has the submission; raises
    LogUnavailable, RequestTooLarge."""

    def __init__(self, store: Store, check: Callable[[], None], append: Append) -> None:
        self._store = store
        self._check = check
        self._append = append

    async def accept(self, submission: Submission) -> Accepted:
        """As in JobQueue. Raises LogUnavailable too: nothing was promised, and nothing runs unless it is repeated under its key."""
        # First, or a long outage would fill the store with reservations under the keys of callers who have given up.
        self._check()
        reserved = await self._store.reserve(submission)
        if not reserved.withheld:
            return Accepted(reserved.job_id, replayed=True)
        first = await self._first(submission, reserved)
        try:
            await self._append(first)
        except RequestTooLarge:
            await self._withdraw(first)
            raise
        except LogUnavailable:
            # Another call with this key may have been acknowledged, or may still be: what it was told must stay true.
            if submission.idempotency_key is not None or await self._withdraw(first):
                raise
            return Accepted(reserved.job_id, replayed=False)  # the log has it, and the pump was faster than our patience
        return await self._admit(first, replayed=reserved.job_id != submission.request.id)

    async def _first(self, submission: Submission, reserved: Reserved) -> Submission:
        """What the key was first used for: that is the request which the log must have."""
        if reserved.job_id == submission.request.id:
            return submission
        try:
            job = await self._store.get(submission.request.tenant, reserved.job_id)
        except JobNotFound as error:
            raise QueueUnavailable("the reservation under this key lapsed in this moment") from error
        return replace(submission, request=job.request)

    async def _withdraw(self, submission: Submission) -> bool:
        """False: it was admitted. Where the store does not answer, the reservation lapses."""
        request = submission.request
        try:
            return await self._store.withdraw(request.tenant, request.id)
        except QueueUnavailable as error:
            logger.warning("job %s is not withdrawn and lapses: %s", request.id, error)
            return True

    async def _admit(self, submission: Submission, *, replayed: bool) -> Accepted:
        job_id = submission.request.id
        try:
            return Accepted((await self._store.admit(submission)).job_id, replayed=replayed)
        except (QueueUnavailable, QueueFull) as error:
            logger.warning("job %s is accepted and waits for the pump: %s", job_id, error)
            return Accepted(job_id, replayed=replayed)
