"""What happened to batches, as the API told it. Plain values, no behaviour."""

from dataclasses import dataclass, field

from tests.chaos.batch_orders import BatchOrder


@dataclass(frozen=True, slots=True)
class Result:
    """A line of an output or error file."""

    custom_id: str
    job_id: str
    text: str | None = None
    """None: it was not answered."""
    finish: str = ""
    """Why the answer ended."""
    tokens: int = 0
    code: str = ""
    """Of its error."""


@dataclass(frozen=True, slots=True)
class BatchEnd:
    """A batch object that has ended."""

    status: str
    counts: tuple[int, int, int]
    """Lines in all, answered, not answered."""
    output_tokens: int
    faults: tuple[tuple[int, str], ...]
    """Line of the input, from 1, and code."""


@dataclass(slots=True)
class BatchRecord:
    """Everything the client of one batch was told."""

    order: BatchOrder
    batch_ids: list[str] = field(default_factory=list)
    """One for every answer that named the batch."""
    statuses: list[int] = field(default_factory=list)
    strangers: list[int] = field(default_factory=list)
    """Statuses another tenant got who asked for the batch or its output."""
    cancels: list[str] = field(default_factory=list)
    """The batch's status in answers to its cancels."""
    glimpses: list[tuple[Result, ...]] = field(default_factory=list)
    """The output file while the batch still wrote it."""
    end: BatchEnd | None = None
    output: tuple[Result, ...] = ()
    errors: tuple[Result, ...] = ()
    gave_up: str = ""
    """Why the client stopped asking, if it did not get to the end."""

    @property
    def results(self) -> tuple[Result, ...]:
        return self.output + self.errors
