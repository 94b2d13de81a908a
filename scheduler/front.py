"""The front of the clerks' list of tasks: by it is seen whether anybody takes them."""

from dataclasses import dataclass, replace

PATIENCE_S = 30.0
"""The same task at the front for so long means that no clerk works. A busy one ends its turn after a second where others wait; the longest
things it does in one piece, reading the largest input and writing its files, take it less than 20."""


@dataclass(frozen=True, slots=True)
class Front:
    """The task that is to be taken next, None where none waits, and the monotonic second since which it has been."""

    task: str | None
    since: float
    stands: bool = False
    """No clerk takes tasks."""

    def seen(self, task: str | None, now: float) -> "Front":
        """The front, `task` being at it now."""
        if task is None or task != self.task:
            return Front(task, now)
        return replace(self, stands=self.stands or now - self.since >= PATIENCE_S)

    def unseen(self, now: float) -> "Front":
        """The list cannot be read. Clerks cannot take anything from it either, so this time does not count."""
        return replace(self, since=now)

    def waited_s(self, now: float) -> float:
        """For how long the task at the front has not been taken."""
        return 0.0 if self.task is None else now - self.since
