"""The states of a job and the one table of legal transitions.

The library in `headrace/queues/*.lua` and `headrace/testing/queue/memory.py` implement this table; contract and property suites hold both
to it.
"""

from enum import StrEnum


class State(StrEnum):
    """Where a job is. The values are stored and shown as they stand here."""

    QUEUED = "queued"
    """Accepted durably; waits in its lane."""
    DELAYED = "delayed"
    """Given back for later; the janitor promotes it to its lane when due."""
    RUNNING = "running"
    """Leased to a worker under an epoch."""
    DONE = "done"
    """Finished; the log is complete."""
    FAILED = "failed"
    """The engine could not run it; the reason says why."""
    CANCELLED = "cancelled"
    """Stopped by its owner; what was generated is kept."""
    EXPIRED = "expired"
    """Its deadline passed; what was generated is kept."""
    DEAD = "dead"
    """It ended its worker time after time though it ran alone."""


class Fault(StrEnum):
    """What made a job FAILED though nothing was wrong with its request. Its reason begins with it: see `failure`."""

    ENGINE_ERROR = "engine_error"
    """The model or the tokenizer made no sense of it."""
    RESOURCE_EXHAUSTED = "resource_exhausted"
    """The device ran out of memory for it alone."""


def failure(fault: Fault | None, error: str) -> str:
    """The reason of a FAILED job."""
    return f"{fault}: {error}" if fault else error


def fault_of(reason: str) -> tuple[Fault | None, str]:
    """What `failure` put together."""
    code, _, error = reason.partition(": ")
    return (Fault(code), error) if code in frozenset(Fault) else (None, reason)


TERMINAL = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.EXPIRED, State.DEAD})
LIVE = frozenset(State) - TERMINAL

#: transition -> (legal sources, possible targets); a source of None is "does not exist yet", a target of None is "is gone".
TRANSITIONS: dict[str, tuple[frozenset[State | None], frozenset[State | None]]] = {
    "accept": (frozenset({None}), frozenset({State.QUEUED})),
    # Of a job that is withheld. To its submitter it is queued, as it is after `admit`.
    "reserve": (frozenset({None}), frozenset({State.QUEUED})),
    "admit": (frozenset({None}), frozenset({State.QUEUED})),
    "withdraw": (frozenset({State.QUEUED}), frozenset({None})),
    "lapse": (frozenset({State.QUEUED}), frozenset({None})),
    # A claim meets jobs whose deadline passed in the queue and ends them on the spot.
    "claim": (frozenset({State.QUEUED}), frozenset({State.RUNNING, State.EXPIRED})),
    "append": (frozenset({State.RUNNING}), frozenset({State.RUNNING})),
    "renew": (frozenset({State.RUNNING}), frozenset({State.RUNNING})),
    "finish": (
        frozenset({State.RUNNING}),
        frozenset({State.DONE, State.FAILED, State.CANCELLED, State.EXPIRED}),
    ),
    # A cancel that waited for its owner is completed by whoever takes the lease away.
    "release": (frozenset({State.RUNNING}), frozenset({State.QUEUED, State.DELAYED, State.CANCELLED})),
    "reap": (
        frozenset({State.RUNNING}),
        frozenset({State.QUEUED, State.CANCELLED, State.EXPIRED, State.DEAD}),
    ),
    "promote": (frozenset({State.DELAYED}), frozenset({State.QUEUED})),
    # A running job only gets a flag; its owner ends it with `finish`.
    "cancel": (frozenset({State.QUEUED, State.DELAYED}), frozenset({State.CANCELLED})),
    "expire": (frozenset({State.QUEUED, State.DELAYED}), frozenset({State.EXPIRED})),
    "purge": (TERMINAL, frozenset({None})),
}
