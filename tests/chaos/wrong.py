"""Kinds of violations."""

from dataclasses import dataclass
from enum import StrEnum


class Wrong(StrEnum):
    """Kinds of violations, as the result's table has them."""

    LOST = "lost"
    DOUBLED = "doubled"
    DISORDER = "out of order"
    INNOCENT_DEAD = "innocents dead"
    POISON_ALIVE = "poison not dead"
    ALTERED = "other text than expected"
    UNENDED = "not ended once"
    ONE_JOB = "not one job per key"
    ONE_BATCH = "not one batch per key"
    OUTBOX = "not one outbox entry"
    COUNTS = "counts not back at zero"
    STATUS = "wrong statuses"
    SEEN = "another tenant's"
    FALSE_END = "unfinished streams ended clean"
    TOTALS = "a batch's counts"
    LATE = "not within a client's patience"


STRANGER_STATUSES = frozenset({404, 429, 503})
CALL_STATUSES = frozenset({200, 202, 429, 503})


@dataclass(frozen=True, slots=True)
class Violation:
    kind: Wrong
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.who}: {self.what}"
