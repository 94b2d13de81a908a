"""A model of suspicion: which jobs lost how many leases, who waits apart for it, and whose turn it is to run them."""

from collections import Counter

from headrace.ids import shard_of
from headrace.job import Job
from headrace.queues.rules import STRIKES_PER_CRASH, SUSPECT_STRIKES, TURN_MS
from headrace.state import State
from headrace.testing.picture import Picture


class Suspicion:
    def __init__(self, max_solo_crashes: int) -> None:
        self._max_solo_crashes = max_solo_crashes
        self._strikes: Counter[str] = Counter()
        self._at_claim: dict[str, int] = {}
        self._queued_since: dict[str, int] = {}
        self._turns: dict[int, tuple[str, int]] = {}

    def note_queued(self, before: Picture, after: Picture, now: int) -> None:
        for job_id, job in after.jobs.items():
            if job.state is State.QUEUED and (job_id not in before.jobs or before.jobs[job_id].state is not State.QUEUED):
                self._queued_since[job_id] = now

    def note_claim(self, job: Job) -> None:
        self._at_claim[job.request.id] = job.committed

    def note_turns(self, turns: dict[int, tuple[str, int]]) -> None:
        self._turns |= turns

    def waiting(self, picture: Picture, *, suspects: bool) -> dict[str, Job]:
        queued = {i: job for i, job in picture.jobs.items() if job.state is State.QUEUED and i not in picture.withheld}
        return {i: job for i, job in queued.items() if (self._strikes[i] >= SUSPECT_STRIKES) is suspects}

    def shards_to_serve(self, worker: str, picture: Picture, patience: int, now: int) -> dict[int, tuple[str, int]]:
        """Shards with suspects where it is this worker's turn or nobody's, with the turn: whose, and since when."""
        mine = {}
        for job_id in self.waiting(picture, suspects=True):
            shard = shard_of(job_id)
            warden, began = self._turns.get(shard, ("", 0))
            if now >= began + 2 * TURN_MS and now >= self._queued_since[job_id] + patience:
                mine[shard] = (worker, now)
            elif warden == worker and now < began + TURN_MS:
                mine[shard] = (worker, began)
        return mine

    def forget(self, job_id: str) -> None:
        """The store does not know it any more."""
        self._strikes[job_id] = 0

    def forgive(self, job: Job) -> None:
        """Its lease ends."""
        if job.committed > self._at_claim[job.request.id]:
            self._strikes[job.request.id] = 0

    def check_reaped(self, before: Picture, after: Picture, weight: int, now: int) -> None:
        """Jobs have just lost their lease: none is dead but for what happened to it alone."""
        for job_id, job in before.jobs.items():
            if job.state is not State.RUNNING or after.jobs[job_id].epoch == job.epoch:
                continue
            self.forgive(job)
            self._strikes[job_id] += weight
            over = job.cancel_requested or job.deadline_ms <= now
            alone = self._strikes[job_id] - SUSPECT_STRIKES
            assert (after.jobs[job_id].state is State.DEAD) == (not over and alone >= STRIKES_PER_CRASH * self._max_solo_crashes)
