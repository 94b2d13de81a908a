"""Jobs that ended FAILED, for the worker's log."""

import logging
from collections.abc import Callable

from headrace.state import fault_of
from headrace.tally import Tally

logger = logging.getLogger(__name__)


class Failures:
    """One client that sends nonsense makes thousands of failed jobs: they are counted, and told once a minute for each fault."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._tally = Tally(clock)

    def count(self, job_id: str, reason: str) -> None:
        """`reason`: as `headrace.state.failure` words it."""
        fault, error = fault_of(reason)
        if (count := self._tally.count(fault)) is not None:
            logger.warning("jobs failed count=%d fault=%s, the last is %s: %s", count, fault or "none", job_id, error)
