"""Suspects as `memory.py` keeps them: what waits to be run alone, and the worker whose turn it is to do that."""

from bisect import insort
from typing import NamedTuple

from headrace.queues.rules import TURN_MS


class Suspect(NamedTuple):
    since: int
    """ms, when it began to wait: the line is by this and not by arrival, so that one that crashes again goes behind all others."""
    job_id: str


class Quarantine:
    """Suspects of one model, and the turns in which they are run.

    At most one worker at a time is their warden: for TURN_MS it runs them one after the other, and for as long again nobody else's turn
    begins, so the rest of the work always gets a share, however many engines are crashed. An idle worker takes the turn at once. Where all
    are busy, the first that asks after a suspect has waited for TURN_MS is summoned: it gives back what it holds.
    """

    def __init__(self) -> None:
        self._line: list[Suspect] = []
        self._warden = ""
        self._until = 0

    def put(self, suspect: Suspect) -> None:
        insort(self._line, suspect)

    def remove(self, job_id: str) -> None:
        self._line = [suspect for suspect in self._line if suspect.job_id != job_id]

    def head(self) -> str:
        """There must be one: `is_warden` said so."""
        return self._line[0].job_id

    def rank(self, job_id: str) -> int:
        return [suspect.job_id for suspect in self._line].index(job_id)

    def is_warden(self, worker: str, patience: int, now: int) -> bool:
        """Whether it is this worker's turn. If it is nobody's, it becomes this one's once the first has waited for `patience` ms."""
        if not self._line:
            return False
        if now < self._until:
            return worker == self._warden and now < self._until - TURN_MS
        if now < self._line[0].since + patience:
            return False
        self._warden, self._until = worker, now + 2 * TURN_MS
        return True
