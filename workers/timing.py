"""How long a worker's loop waits for what."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds. The defaults suit a lease of 5 s."""

    lease: float = 5.0
    idle: float = 0.5
    """Longest wait for a doorbell: the price of a lost one."""
    retry_first: float = 0.05
    retry_longest: float = 1.0
    drain_call: float = 0.75
    """What a call to the store may take once the worker has been told to stop."""

    @property
    def renew(self) -> float:
        return self.lease / 5

    @property
    def lease_ms(self) -> int:
        return int(self.lease * 1_000)
