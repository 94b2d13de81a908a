"""The queue in one process's memory: for tests, and the plainest statement of the state machine that the Lua library implements.

Every method runs without awaiting, so it is atomic on its event loop. One shard. Nothing survives the process.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager

from headrace.cursor import LogPosition
from headrace.death import Death
from headrace.job import Job, LogEntry
from headrace.load import Depth, Ending, Load
from headrace.ports import Append, Claim, Doorbell, Finish, Held, Verdict
from headrace.queues import rules
from headrace.request import Lane
from headrace.state import TERMINAL, State, fault_of
from headrace.testing.queue.intake import MemoryIntake
from headrace.testing.queue.record import Ended, Record
from headrace.worker_status import WorkerStatus

_WRITTEN = (Verdict.OK, Verdict.CANCEL, Verdict.EXPIRE)


class MemoryQueue(MemoryIntake):
    """Implements JobQueue, Intake, WorkQueue and Housekeeping. `clock` gives Unix milliseconds."""

    # Submitters

    async def ping(self) -> None:
        """Always there."""

    async def get(self, tenant: str, job_id: str) -> Job:
        return self._find(tenant, job_id).view()

    async def list_jobs(self, tenant: str, *, after: str | None, limit: int) -> list[Job]:
        listed = (job for job in self._jobs.values() if job.tenant == tenant and job.lane is not Lane.BATCH)
        jobs = sorted(listed, key=lambda job: job.place, reverse=True)
        if after is not None:
            last = self._jobs.get(after)
            if last is None or last.tenant != tenant:
                raise rules.not_found(after)
            jobs = [job for job in jobs if job.place < last.place]
        return [job.view() for job in jobs[:limit]]

    async def queue_position(self, tenant: str, job_id: str) -> int | None:
        job = self._find(tenant, job_id)
        if job.state is not State.QUEUED or job.withheld:
            return None
        return 1 + self._waiting.rank(job)

    async def read_log(self, tenant: str, job_id: str, after: LogPosition, limit: int) -> list[LogEntry]:
        return self._find(tenant, job_id).behind(after, limit)

    async def read_logs(self, wants: Sequence[tuple[str, LogPosition]], limit: int) -> list[list[LogEntry]]:
        return [self._jobs[job_id].behind(after, limit) if job_id in self._jobs else [] for job_id, after in wants]

    async def states(self, job_ids: Sequence[str]) -> list[State | None]:
        return [None if (job := self._jobs.get(job_id)) is None else job.state for job_id in job_ids]

    async def get_many(self, tenant: str, job_ids: Sequence[str]) -> list[Job | None]:
        jobs = (self._jobs.get(job_id) for job_id in job_ids)
        return [job.view() if job is not None and job.tenant == tenant else None for job in jobs]

    async def forget(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            job = self._jobs.get(job_id)
            if job is not None and job.ended:
                self._bury(job)

    async def cancel(self, tenant: str, job_id: str) -> State:
        return self._cancel(self._find(tenant, job_id), rules.CANCELLED)

    async def attend(self, job_ids: Sequence[str]) -> None:
        due = self._clock() + self._limits.viewer_grace_ms
        for job_id in job_ids:
            job = self._jobs.get(job_id)
            if job is not None and job.viewer_due is not None:
                job.viewer_due = due

    def log_doorbell(self) -> AbstractAsyncContextManager[Doorbell]:
        return self._log_bells.hung()

    async def load(self) -> Load:
        jobs = self._jobs.values()
        queued = Counter((job.model, job.lane) for job in jobs if job.state is State.QUEUED and not job.withheld)
        return Load(
            lanes=tuple(Depth(*ward, queued[ward]) for ward in self._waiting.wards),
            running=sum(job.state is State.RUNNING for job in jobs),
            delayed=sum(job.state is State.DELAYED for job in jobs),
            cost=sum(job.cost for job in jobs if not job.ended),
            ended=tuple(Ending(*how, self._endings[how]) for how in sorted(self._endings, key=lambda how: (how[0], how[1] or ""))),
        )

    async def workers(self) -> list[WorkerStatus]:
        return self._reports.live(self._clock())

    async def swept_ms_ago(self) -> int | None:
        return None if self._swept_ms is None else max(0, self._clock() - self._swept_ms)

    # Workers

    async def claim(
        self, *, worker: str, nonce: str, models: Sequence[str], lanes: Sequence[Lane], max_jobs: int, max_tokens: int, lease_ms: int
    ) -> list[Claim]:
        now = self._clock()
        if (known := self._recall(worker, nonce, now)) is not None:
            return known
        taken: list[Record] = []
        for job in self._heads(now, lanes, models, max_jobs + rules.HEADS_PER_CLAIM):
            if len(taken) == max_jobs or job.room + job.committed > max_tokens:
                break
            self._lease(job, worker, now, lease_ms)
            max_tokens -= job.room + job.committed
            taken.append(job)
        return self._remember(worker, nonce, now, lease_ms, taken)

    async def summon(self, *, worker: str, models: Sequence[str]) -> bool:
        now = self._clock()
        return any(self._waiting.is_warden(worker, model, rules.TURN_MS, now) for model in models)

    async def claim_suspect(self, *, worker: str, nonce: str, models: Sequence[str], lease_ms: int) -> Claim | None:
        now = self._clock()
        claims = self._recall(worker, nonce, now)
        if claims is None:
            taken = [self._jobs[self._waiting.suspect(model)] for model in models if self._waiting.is_warden(worker, model, 0, now)][:1]
            for job in taken:
                self._lease(job, worker, now, lease_ms)
            claims = self._remember(worker, nonce, now, lease_ms, taken)
        return claims[0] if claims else None

    async def append(self, appends: Sequence[Append]) -> list[Verdict]:
        rules.check_appends(appends)
        verdicts = [self._append(append) for append in appends]
        self._log_bells.ring({append.job_id for append, verdict in zip(appends, verdicts, strict=True) if verdict in _WRITTEN})
        return verdicts

    async def renew(self, held: Sequence[Held], lease_ms: int) -> list[Verdict]:
        return [self._renew(one, lease_ms) for one in held]

    async def finish(self, finishes: Sequence[Finish]) -> list[Verdict]:
        rules.check_finishes(finishes)
        return [self._finish(finish) for finish in finishes]

    async def release(self, held: Sequence[Held], delay_ms: int) -> list[Verdict]:
        return [self._release(one, delay_ms) for one in held]

    async def report(self, status: WorkerStatus, ttl_ms: int) -> None:
        self._reports.put(status, self._clock() + ttl_ms)

    async def reap_worker(self, worker: str) -> list[str]:
        jobs = [job for job in self._jobs.values() if job.worker == worker]
        for job in jobs:
            self._reap(job, died=True)
        return [job.id for job in jobs]

    def work_doorbell(self) -> AbstractAsyncContextManager[Doorbell]:
        return self._work_bells.hung()

    # Housekeeping

    async def reap_expired(self, limit: int) -> int:
        return self._sweep(lambda job: job.lease_due, limit, lambda job: self._reap(job, died=False))

    async def deaths(self, limit: int) -> list[Death]:
        told, self._deaths = self._deaths[:limit], self._deaths[limit:]
        return told

    async def promote(self, limit: int) -> int:
        return self._sweep(lambda job: job.delay_due, limit, lambda job: self._requeue(job, 0))

    async def expire(self, limit: int) -> int:
        return self._sweep(lambda job: job.deadline_due, limit, lambda job: self._end(job, State.EXPIRED, rules.DEADLINE))

    async def cancel_unattended(self, limit: int) -> int:
        return self._sweep(lambda job: job.viewer_due, limit, lambda job: self._cancel(job, rules.UNATTENDED))

    async def purge(self, limit: int) -> int:
        now, retention = self._clock(), self._limits.retention_ms
        while self.outbox and self.outbox[0].ended_ms <= now - retention:
            self.outbox.popleft()
        self._tombs = {job_id: tomb for job_id, tomb in self._tombs.items() if tomb[1] > now}
        return self._sweep(lambda job: None if job.ended_ms is None else job.ended_ms + retention, limit, self._bury)

    async def forget_lapsed(self, limit: int) -> int:
        return self._sweep(lambda job: job.withheld_due, limit, self._unreserve)

    async def end_round(self) -> None:
        self._swept_ms = self._clock()

    # Transitions

    def _sweep(self, due: Callable[[Record], int | None], limit: int, move: Callable[[Record], object]) -> int:
        now = self._clock()
        jobs = sorted((when, job.place) for job in self._jobs.values() if (when := due(job)) is not None and when <= now)[:limit]
        for _, place in jobs:
            move(self._jobs[place.job_id])
        return len(jobs)

    def _heads(self, now: int, lanes: Sequence[Lane], models: Sequence[str], looks: int) -> Iterator[Record]:
        """The job to take next, again and again; ends those whose deadline passed in the queue."""
        for lane in lanes:
            for model in models:
                while looks > 0 and (head := self._waiting.head(model, lane)) is not None:
                    looks -= 1
                    job = self._jobs[head]
                    if job.deadline_ms <= now:
                        self._end(job, State.EXPIRED, rules.DEADLINE)
                    else:
                        yield job

    def _remember(self, worker: str, nonce: str, now: int, lease_ms: int, taken: Sequence[Record]) -> list[Claim]:
        self._claims.remember(worker, nonce, (Held(job.id, job.epoch) for job in taken), now + lease_ms + rules.CLAIM_MEMORY_MS)
        return [job.claim() for job in taken]

    def _recall(self, worker: str, nonce: str, now: int) -> list[Claim] | None:
        """What an earlier call with this nonce took and the worker still holds; None if there was none."""
        known = self._claims.recall(worker, nonce, now)
        return None if known is None else [job.claim() for one in known if (job := self._held(one)) is not None]

    def _lease(self, job: Record, worker: str, now: int, lease_ms: int) -> None:
        if job.started_ms is None:  # a job that comes back was paid for by its first claim
            self._waiting.charge(job)
        self._waiting.remove(job)
        job.state, job.worker, job.epoch = State.RUNNING, worker, job.epoch + 1
        job.committed_at_claim, job.lease_due = job.committed, now + lease_ms
        job.started_ms = now if job.started_ms is None else job.started_ms

    def _append(self, append: Append) -> Verdict:
        job = self._held(append)
        if job is None:
            return Verdict.FENCED
        return job.advice(self._clock()) if job.write(append) else Verdict.GAP

    def _renew(self, one: Held, lease_ms: int) -> Verdict:
        job = self._held(one)
        if job is None:
            return Verdict.FENCED
        job.lease_due = self._clock() + lease_ms
        return job.advice(self._clock())

    def _finish(self, finish: Finish) -> Verdict:
        job = self._jobs.get(finish.job_id)
        if job is not None and job.epoch == finish.epoch and job.state is finish.state:
            return Verdict.OK
        job = self._held(finish)
        if job is None:
            return Verdict.FENCED
        if job.committed != finish.committed:
            return Verdict.GAP
        # Who asked for the cancel is known here, not to the worker.
        self._end(job, finish.state, job.cancel or finish.reason if finish.state is State.CANCELLED else finish.reason)
        return Verdict.OK

    def _release(self, one: Held, delay_ms: int) -> Verdict:
        job = self._held(one)
        if job is None:
            known = self._jobs.get(one.job_id)
            return Verdict.OK if known is not None and 0 < known.released == one.epoch else Verdict.FENCED
        job.forgive()
        job.released = job.epoch
        job.epoch += 1
        if job.cancel:
            self._end(job, State.CANCELLED, job.cancel)
        else:
            self._requeue(job, delay_ms)
        return Verdict.OK

    def _reap(self, job: Record, *, died: bool) -> None:
        job.forgive()
        job.crashes += died
        job.expiries += not died
        job.epoch += 1
        state, reason = rules.reaped(
            crashes=job.crashes,
            expiries=job.expiries,
            cancel=job.cancel,
            overdue=job.deadline_ms <= self._clock(),
            max_solo_crashes=self._limits.max_solo_crashes,
        )
        if state is State.DEAD:
            self._deaths.append(Death(job.id, job.tenant, job.crashes, job.expiries))
        if state in TERMINAL:
            self._end(job, state, reason)
        else:
            self._requeue(job, 0)

    def _cancel(self, job: Record, reason: str) -> State:
        if job.state is State.RUNNING:
            job.cancel = job.cancel or reason
            job.viewer_due = None
            self._work_bells.ring([job.id])
        elif not job.ended:
            self._end(job, State.CANCELLED, reason)
        return job.state

    def _requeue(self, job: Record, delay_ms: int) -> None:
        job.worker, job.lease_due, job.delay_due = "", None, None
        if delay_ms > 0:
            job.state, job.delay_due = State.DELAYED, self._clock() + delay_ms
        else:
            self._enqueue(job)

    def _end(self, job: Record, state: State, reason: str) -> None:
        if job.withheld:
            job.withheld_due = None
        elif job.state is State.QUEUED:
            self._waiting.remove(job)
        job.state, job.reason, job.ended_ms, job.worker = state, reason, self._clock(), ""
        job.lease_due = job.delay_due = job.viewer_due = None
        self._meters.leave(job.tenant, job.cost, job.ended_ms)
        position = LogPosition(job.epoch, job.committed + 1)
        job.log.append(LogEntry(position=position, end=state, reason=reason, cached_tokens=job.cached_tokens))
        self._endings[state, fault_of(reason)[0] if state is State.FAILED else None] += 1
        self.outbox.append(Ended(job.ended_ms, job.id, job.tenant, state, reason))
        self._log_bells.ring([job.id])

    # Look-ups

    def _find(self, tenant: str, job_id: str) -> Record:
        job = self._jobs.get(job_id)
        if job is not None and job.tenant == tenant:
            return job
        if job is None and self._tomb(job_id) == tenant:
            raise rules.purged(job_id)
        raise rules.not_found(job_id)

    def _held(self, one: Held | Append | Finish) -> Record | None:
        job = self._jobs.get(one.job_id)
        return job if job is not None and job.state is State.RUNNING and job.epoch == one.epoch else None
