"""When a clerk leaves Kafka alone.

It finds out that the brokers are away by waiting for them, 3 to 15 s, and works on one batch at a time: a few batches over topics would
keep it for minutes from all the others, which need no broker.
"""

from headrace.errors import LogUnavailable

LONG_S = 2.0
"""Waited for nothing. A topic that is missing while the brokers answer is told sooner, and keeps nobody."""
REST_S = 10.0


class Rest:
    """Of one process, for all its batches."""

    def __init__(self) -> None:
        self._until = float("-inf")
        self._why = ""

    def check(self, now: float) -> None:
        """Raises LogUnavailable, with what was found last."""
        if now < self._until:
            raise LogUnavailable(f"{self._why}; it is asked again in {self._until - now:.0f} s")

    def note(self, error: LogUnavailable, *, began: float, now: float) -> None:
        """Work that began then has ended with this."""
        if now - began >= LONG_S:
            self._until, self._why = now + REST_S, str(error)
