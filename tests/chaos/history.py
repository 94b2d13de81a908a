"""What happened: what each client saw, connection by connection, and what the store holds at the end. Plain values, no behaviour."""

from dataclasses import dataclass, field
from enum import StrEnum

from tests.chaos.batch_history import BatchRecord
from tests.chaos.orders import Order


class Mark(StrEnum):
    """What an event says."""

    ROLE = "role"
    TEXT = "text"
    FINISH = "finish"
    DONE = "done"
    ERROR = "error"


LIVE = frozenset({"queued", "delayed", "running"})
"""States of jobs that have not ended."""

ENDINGS = frozenset({Mark.DONE, Mark.ERROR})
"""Nothing follows these."""


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    mark: Mark
    text: str = ""
    """What a text event adds, why a finish event says it ended, the code of an error."""
    choice: int = 0
    tokens: tuple[int, ...] = ()
    """What a text event is made of, if that is to be told."""


class Cut(StrEnum):
    """How a connection ended."""

    SERVER = "the server ended it"
    """Without an error: for the client that is the end of the answer."""
    WIRE = "it broke"
    CLIENT = "the client left"


@dataclass(slots=True)
class Connection:
    """One response of a stream. `after`: the cursor it was asked to go on behind, empty at the start."""

    after: str
    status: int | None = None
    """None: it broke before there was one."""
    events: list[Event] = field(default_factory=list)
    cut: Cut = Cut.WIRE


@dataclass(slots=True)
class Stream:
    """One answer as one reader saw it, over all its connections."""

    connections: list[Connection] = field(default_factory=list)

    @property
    def events(self) -> list[Event]:
        return [event for connection in self.connections for event in connection.events]

    @property
    def seen(self) -> str:
        """The cursor to go on behind."""
        return next((one.events[-1].id for one in reversed(self.connections) if one.events), "")

    @property
    def ended(self) -> bool:
        events = self.events
        return bool(events) and events[-1].mark in ENDINGS


@dataclass(slots=True)
class Record:
    """Everything the client of one order was told."""

    order: Order
    job_ids: list[str] = field(default_factory=list)
    """One for every answer that named a job."""
    streams: list[Stream] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Of calls that were no streams."""
    text: str | None = None
    """The first choice in one piece."""
    state: str | None = None
    """How the job ended, as the API told it."""
    cancels: list[str] = field(default_factory=list)
    """The job's states in answers to its cancels."""
    strangers: list[int] = field(default_factory=list)
    """Statuses another tenant got who asked for the job."""
    gave_up: str = ""
    """Why the client stopped asking, if it did not get to the end."""
    more: tuple[str, ...] = ()
    """The other choices of an answer that was told in one piece."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Of a token log: tokens, or the end of the job."""

    epoch: int
    n: int
    tokens: tuple[int, ...] = ()
    text: str = ""
    end: str | None = None
    reason: str = ""
    choice: int = 0

    @property
    def id(self) -> str:
        return f"{self.epoch}-{self.n}"


@dataclass(frozen=True, slots=True)
class StoredJob:
    id: str
    key: str
    """Its Idempotency-Key; a batch's line has none."""
    tenant: str
    state: str
    reason: str
    committed: int
    log: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Store:
    """The store once everything has come to rest."""

    jobs: dict[str, StoredJob]
    outbox: tuple[tuple[str, str], ...]
    """Job id and state, in order."""
    leftovers: dict[str, int]
    """What must be back at zero by then, by name."""


@dataclass(slots=True)
class History:
    records: list[Record]
    store: Store
    batches: list[BatchRecord] = field(default_factory=list)
    batch_ids: frozenset[str] = frozenset()
    """Of all batches that the API lists at the end."""
