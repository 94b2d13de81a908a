"""What workers say about themselves, and others read."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStatus:
    """What a worker says about itself from its step loop; gone from the store soon after it stops saying so."""

    worker: str
    pid: int
    model: str
    device: str
    memory_used: int
    """Bytes resident on the device (on CPU: of the process)."""
    memory_total: int
    kv_tokens_used: int
    kv_tokens_total: int
    active_requests: int
    steps: int
    """Engine steps since the process started: proves progress."""
    standby: bool = False
    """Warmed up, without a cache and without work: it waits for its turn. (Older workers do not say, and have none that reports.)"""
    # None of what follows: an older worker does not say, or its engine does not know.
    waiting: int | None = None
    """Sequences that it has taken and that do not run now: new ones, and those that were displaced."""
    preemptions: int | None = None
    """Sequences displaced since the process started, to be computed again."""
    shrunk_steps: int | None = None
    """Steps since then that ran out of memory and were tried again, smaller."""
    step_s: float | None = None
    """Median of its last steps; None before the first."""
    dtype: str | None = None
    """Of the weights, such as int8."""
    kv_dtype: str | None = None
