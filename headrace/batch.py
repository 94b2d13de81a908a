"""A batch: a file of requests, run in the background. The states are OpenAI's, and so is what each means.

                  ┌─► failed
validating ───────┼─► in_progress ─► finalizing ─► completed
                  │        │                   └─► expired
                  └────────┴─► cancelling ─► cancelled
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from headrace.request import Endpoint

COMPLETION_WINDOW = "24h"


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    """The input is read; nothing runs yet."""
    FAILED = "failed"
    """The input was refused; nothing ran."""
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    """Nothing runs any more; the files are written."""
    COMPLETED = "completed"
    EXPIRED = "expired"
    """The completion window closed first; what was done is kept."""
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    """Stopped by its owner; what was done is kept."""


BATCH_TRANSITIONS: dict[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset({BatchStatus.FAILED, BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING}),
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING}),
    BatchStatus.FINALIZING: frozenset({BatchStatus.COMPLETED, BatchStatus.EXPIRED}),
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLED}),
    BatchStatus.FAILED: frozenset(),
    BatchStatus.COMPLETED: frozenset(),
    BatchStatus.EXPIRED: frozenset(),
    BatchStatus.CANCELLED: frozenset(),
}
BATCH_ENDED = frozenset(status for status, onward in BATCH_TRANSITIONS.items() if not onward)


@dataclass(frozen=True, kw_only=True, slots=True)
class LineFault:
    """Why an input was refused. `line` counts from 1; None where the fault is the file's."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a batch is. Written by whoever holds its lease; on the way it lags behind the journal, at the end it equals it."""

    total: int = 0
    """Lines of the input that hold a request; known once it is validated."""
    completed: int = 0
    failed: int = 0
    """Lines in the error file: refused, failed, cancelled or expired."""
    input_tokens: int = 0
    output_tokens: int = 0
    submitted: int = 0
    """Lines before this one (from 0) were handed to the queue. A checkpoint that spares work: handing a line over twice is harmless."""
    told: int | None = None
    """Where there is an output topic: results of lines before this one (from 0) are in it. A checkpoint too. None: the files are not
    written yet, which comes first."""


class Bounds(NamedTuple):
    """Offsets of a partition: from `start`, and before `end`."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Records of one partition: from offset `start`, and before `end`."""

    partition: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicRange:
    """Records of a topic, the spans by partition. Fixed when the batch is accepted: what is written later is none of it."""

    topic: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NewBatch:
    """What a caller asks for, checked."""

    id: str
    tenant: str
    endpoint: Endpoint
    input_file_id: str
    """With an `input_topic`: of the file that the batch makes of it first, before anything else."""
    metadata: dict[str, str] | None = None
    output_ttl_s: int | None = None
    """How long the files that the batch makes are kept, counted from when each was made."""
    input_topic: TopicRange | None = None
    output_topic: str | None = None
    """To which the lines of its files go too, before it ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A batch as it stands. Times are Unix milliseconds of the store; None: not (yet) so."""

    new: NewBatch
    status: BatchStatus
    created_ms: int
    expires_ms: int
    """When its completion window closes."""
    model: str | None = None
    """The one model of all its lines; known once it is validated."""
    faults: tuple[LineFault, ...] = ()
    progress: Progress = Progress()
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_ms: int | None = None
    finalizing_ms: int | None = None
    completed_ms: int | None = None
    failed_ms: int | None = None
    expired_ms: int | None = None
    cancelling_ms: int | None = None
    cancelled_ms: int | None = None
