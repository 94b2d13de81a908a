"""Where the queued jobs of `memory.py` wait: in the lane of their model, suspects apart."""

from collections import defaultdict

from headrace.request import Lane
from headrace.testing.queue.lane import LaneQueue
from headrace.testing.queue.quarantine import Quarantine, Suspect
from headrace.testing.queue.record import Record


class Waiting:
    def __init__(self) -> None:
        self._lanes: defaultdict[tuple[str, Lane], LaneQueue] = defaultdict(LaneQueue)
        self._quarantines: defaultdict[str, Quarantine] = defaultdict(Quarantine)

    @property
    def wards(self) -> list[tuple[str, Lane]]:
        """Model and lane of all that ever waited."""
        return sorted(self._lanes)

    def put(self, job: Record, now: int) -> None:
        if job.suspect:
            self._quarantines[job.model].put(Suspect(now, job.id))
        else:
            self._lane(job).put(job.tenant, job.place)

    def remove(self, job: Record) -> None:
        if job.suspect:
            self._quarantines[job.model].remove(job.id)
        else:
            self._lane(job).remove(job.tenant, job.place)

    def rank(self, job: Record) -> int:
        """From 0: among its tenant's own in its lane, or among all suspects of its model."""
        return self._quarantines[job.model].rank(job.id) if job.suspect else self._lane(job).rank(job.tenant, job.place)

    def head(self, model: str, lane: Lane) -> str | None:
        """The id of the job to take next."""
        queue = self._lanes.get((model, lane))
        return None if queue is None else queue.head()

    def charge(self, job: Record) -> None:
        self._lane(job).fairness.charge(job.tenant, job.cost)

    def suspect(self, model: str) -> str:
        """The id of the one that has waited longest; there is one."""
        return self._quarantines[model].head()

    def is_warden(self, worker: str, model: str, patience: int, now: int) -> bool:
        """As `Quarantine.is_warden` of that model."""
        return self._quarantines[model].is_warden(worker, patience, now)

    def _lane(self, job: Record) -> LaneQueue:
        return self._lanes[job.model, job.lane]
