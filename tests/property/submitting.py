"""What submitters do in random histories."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import precondition, rule

from headrace.errors import QueueFull, TenantFull
from headrace.ids import shard_of
from headrace.ports import Submission
from headrace.request import Lane, Request
from headrace.state import LIVE, State
from tests.property.queue_machine import LIMITS, MAX_TENANT_JOBS, TENANTS, QueueMachine


class Submitting(QueueMachine):
    @rule(
        tenant=st.sampled_from(TENANTS),
        lane=st.sampled_from(Lane),
        keyed=st.booleans(),
        attended=st.booleans(),
        ttl_ms=st.sampled_from([3_000, 20_000, 10**7]),
        repeated=st.booleans(),
        reserving=st.booleans(),
    )
    def accept(self, tenant: str, lane: Lane, keyed: bool, attended: bool, ttl_ms: int, repeated: bool, reserving: bool) -> None:
        self.serial += 1
        key = f"key-{self.serial}" if keyed else None
        submission = self.bench.submission(
            tenant=tenant, lane=lane, key=key, attended=attended, ttl_ms=ttl_ms, max_tokens=self.serial % 7 + 1
        )
        if (bound := self.reached(submission.request)) is not None:
            before = self.picture
            with pytest.raises(bound):
                self.call(self.bench.queue.reserve(submission) if reserving else self.bench.queue.accept(submission))
            assert self.picture == before
            return
        self.submissions.append(submission)
        if reserving:
            self.reserve(submission, repeated)
            return
        accepted = self.call(self.bench.queue.accept(submission), "accept")
        assert (accepted.job_id, accepted.replayed) == (submission.request.id, False)
        if repeated:
            self.accept_again(len(self.submissions) - 1)

    def reserve(self, submission: Submission, repeated: bool) -> None:
        job_id, before = submission.request.id, self.picture
        reserved = self.twice(repeated, lambda: self.bench.queue.reserve(submission), "reserve")
        assert (reserved.job_id, reserved.withheld) == (job_id, True)
        assert self.picture.withheld == before.withheld | {job_id}

    def reached(self, request: Request) -> type[QueueFull] | None:
        """Which bound the request would break in its shard."""
        live = [i for i, job in self.picture.jobs.items() if job.state in LIVE and shard_of(i) == shard_of(request.id)]
        if len(live) >= LIMITS.max_live_jobs:
            return QueueFull
        own = [i for i in live if self.picture.jobs[i].request.tenant == request.tenant]
        return TenantFull if len(own) >= MAX_TENANT_JOBS else None

    @precondition(lambda self: self.submissions)
    @rule(which=st.integers(0, 10**6))
    def accept_again(self, which: int) -> None:
        submission = self.submissions[which % len(self.submissions)]
        before = self.picture
        until = self.purged.get(submission.request.id)
        if submission.request.id in self.lapsed:
            return
        if until is not None and (submission.idempotency_key is not None or self.bench.now_ms >= until):
            return  # the key is free again at once; the id alone still answers for a while
        accepted = self.call(self.bench.queue.accept(submission))
        assert (accepted.job_id, accepted.replayed) == (submission.request.id, True)
        assert self.picture == replace(before, withheld=before.withheld - {submission.request.id})

    @precondition(lambda self: self.submissions)
    @rule(which=st.integers(0, 10**6), repeated=st.booleans())
    def admit(self, which: int, repeated: bool) -> None:
        submission = self.submissions[which % len(self.submissions)]
        job_id, before = submission.request.id, self.picture
        if self.unknown(job_id):
            self.admit_unknown(submission)
        else:
            accepted = self.call(self.bench.queue.admit(submission))
            assert (accepted.job_id, accepted.replayed) == (job_id, job_id not in before.withheld)
            assert self.picture == replace(before, withheld=before.withheld - {job_id})
        if repeated and job_id in self.picture.jobs:
            before = self.picture
            assert self.call(self.bench.queue.admit(submission)).replayed
            assert self.picture == before

    def unknown(self, job_id: str) -> bool:
        """There is neither the job nor its tombstone."""
        until = self.purged.get(job_id)
        return job_id in self.lapsed or (until is not None and self.bench.now_ms >= until)

    def admit_unknown(self, submission: Submission) -> None:
        """Its tenant's bound does not count."""
        job_id, before = submission.request.id, self.picture
        if self.reached(submission.request) is QueueFull:
            with pytest.raises(QueueFull):
                self.call(self.bench.queue.admit(submission))
            assert self.picture == before
            return
        assert not self.call(self.bench.queue.admit(submission), "admit").replayed
        assert self.picture.jobs.keys() == before.jobs.keys() | {job_id}
        assert self.picture.withheld == before.withheld
        self.lapsed.discard(job_id)
        self.purged.pop(job_id, None)
        self.suspicion.forget(job_id)

    @precondition(lambda self: self.submissions)
    @rule(which=st.integers(0, 10**6), repeated=st.booleans())
    def withdraw(self, which: int, repeated: bool) -> None:
        request, before = self.submissions[which % len(self.submissions)].request, self.picture
        gone = self.twice(repeated, lambda: self.bench.queue.withdraw(request.tenant, request.id), "withdraw")
        assert gone is (request.id in before.withheld or request.id not in before.jobs)
        assert self.picture.jobs.keys() == before.jobs.keys() - ({request.id} if gone else set())
        if gone:
            self.purged[request.id] = max(self.purged.get(request.id, 0), self.bench.now_ms + LIMITS.retention_ms)
            self.lapsed.discard(request.id)

    @precondition(lambda self: self.picture.jobs)
    @rule(which=st.integers(0, 10**6), repeated=st.booleans())
    def cancel(self, which: int, repeated: bool) -> None:
        job = self.any_job(which)
        state = self.twice(repeated, lambda: self.bench.queue.cancel(job.request.tenant, job.request.id), "cancel")
        assert state is (State.CANCELLED if job.state in (State.QUEUED, State.DELAYED) else job.state)
        assert self.picture.jobs[job.request.id].cancel_requested == (job.cancel_requested or job.state is State.RUNNING)

    @precondition(lambda self: self.picture.jobs)
    @rule(which=st.integers(0, 10**6))
    def attend(self, which: int) -> None:
        self.call(self.bench.queue.attend([self.any_job(which).request.id]))
