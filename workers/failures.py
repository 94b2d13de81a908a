"""Jobs that ended FAILED, for the worker's log."""

import logging
from collections.abc import Callable

from headrace.state import Fault, fault_of

logger = logging.getLogger(__name__)

TELL_EVERY_S = 60.0
"""Of jobs that failed alike the log has a line at the first, and then one a minute."""


class Failures:
    """One client that sends nonsense makes thousands of failed jobs: they are counted, and told once in TELL_EVERY_S for each fault."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._told_at: dict[Fault | None, float] = {}
        self._untold: dict[Fault | None, int] = {}

    def count(self, job_id: str, reason: str) -> None:
        """`reason`: as `headrace.state.failure` words it."""
        fault, error = fault_of(reason)
        now = self._clock()
        count = self._untold[fault] = self._untold.get(fault, 0) + 1
        if now - self._told_at.get(fault, float("-inf")) < TELL_EVERY_S:
            return
        logger.warning("jobs failed count=%d fault=%s, the last is %s: %s", count, fault or "none", job_id, error)
        self._told_at[fault], self._untold[fault] = now, 0
