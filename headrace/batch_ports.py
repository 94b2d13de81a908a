"""The ports of files and batches. The rules of `headrace/ports.py` hold here too: atomic, idempotent, the store's clock, a tenant on every
read, another tenant's object as unknown as one that never was."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from headrace.batch import Batch, BatchStatus, Bounds, LineFault, NewBatch, Progress
from headrace.file import FileRecord, Purpose


@dataclass(frozen=True, slots=True)
class Stored:
    """An object that was created, or the one that an earlier call with the same idempotency key had created."""

    id: str
    replayed: bool


class FileRegistry(Protocol):
    """Records of files."""

    async def add(self, record: FileRecord, *, idempotency_key: str | None, body_hash: str) -> Stored:
        """Idempotent by (tenant, key), and by id where there is no key. Raises IdempotencyConflict."""
        ...

    async def put(self, record: FileRecord) -> None:
        """Add the record, or replace the one with its id.

        A record that a batch still writes never replaces a finished one: who puts it has lost the batch and does not know yet.
        """
        ...

    async def get(self, tenant: str, file_id: str) -> FileRecord:
        """Raises FileNotKnown."""
        ...

    async def list_files(
        self, tenant: str, *, purpose: Purpose | None, after: str | None, limit: int, newest_first: bool
    ) -> list[FileRecord]:
        """In the order they were created, behind file `after`. Raises FileNotKnown if `after` is not the tenant's."""
        ...

    async def remove(self, tenant: str, file_id: str) -> None:
        """Forget the record (its blob is the caller's to delete, afterwards). Raises FileNotKnown."""
        ...

    async def overdue(self, limit: int) -> list[FileRecord]:
        """Records whose `expires_ms` has passed by the store's clock."""
        ...

    async def known(self, file_ids: Sequence[str]) -> list[bool]:
        """Whether a record exists, whoever's it is."""
        ...


class BatchRegistry(Protocol):
    """The submitter's side of batches."""

    async def create(self, new: NewBatch, *, window_ms: int, idempotency_key: str | None, body_hash: str) -> Stored:
        """In `validating`, due for work at once. Idempotent by (tenant, key), by id where there is no key. Raises IdempotencyConflict."""
        ...

    async def made_before(self, tenant: str, idempotency_key: str, body_hash: str) -> Stored | None:
        """What `create` would answer with under a key that it knows, and None for one that it does not. Raises IdempotencyConflict.

        For a caller who repeats himself after the file he named was deleted, which a new batch could not be made of.
        """
        ...

    async def get(self, tenant: str, batch_id: str) -> Batch:
        """Raises BatchNotFound."""
        ...

    async def list_batches(self, tenant: str, *, after: str | None, limit: int) -> list[Batch]:
        """Newest first, behind batch `after`. Raises BatchNotFound if `after` is not the tenant's."""
        ...

    async def cancel(self, tenant: str, batch_id: str) -> Batch:
        """To `cancelling`, due for work at once; again: the same. Raises BatchNotFound, BatchNotCancellable (finalizing, or ended)."""
        ...


class BatchTopics(Protocol):
    """The submitter's side of topics that batches are fed from and answered to."""

    def allows(self, tenant: str, topic: str) -> bool:
        """Whether the tenant's batches may use a topic of that name, be there one or not."""
        ...

    async def bounds(self, topic: str) -> Mapping[int, Bounds]:
        """What each of its partitions holds now; empty if there is no such topic. Raises LogUnavailable."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLease:
    """The right to work on a batch, for a few seconds at a time, fenced by its epoch."""

    batch: Batch
    epoch: int


NO_FILE = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchUpdate:
    """What a holder writes. None: as it was."""

    progress: Progress | None = None
    status: BatchStatus | None = None
    model: str | None = None
    faults: tuple[LineFault, ...] | None = None
    output_file_id: str | None = None
    """NO_FILE: none any more."""
    error_file_id: str | None = None


class BatchWork(Protocol):
    """The side of those who work on batches. Who does is decided here alone, by the lease."""

    async def dispatch(self, limit: int, again_ms: int) -> list[str]:
        """Ids of batches that are due for work: held by nobody, or by somebody whose lease ran out. Each is due again in `again_ms` unless
        somebody has taken it by then."""
        ...

    async def acquire(self, batch_id: str, holder: str, lease_ms: int) -> BatchLease | None:
        """Lease a batch under a new epoch. None: it has ended, is held by somebody, or is not known.

        `holder` names one attempt: asked again under the same name while the lease runs, the answer is the same epoch, so a lost reply
        costs nothing.
        """
        ...

    async def update(self, batch_id: str, epoch: int, update: BatchUpdate, lease_ms: int) -> Batch:
        """Write, and extend the lease. Repeating it is harmless. Raises BatchLeaseLost.

        A status that the present one does not lead to (`BATCH_TRANSITIONS`) is not taken, everything else is; the answer says where the
        batch stands now, which is how a holder learns of a cancel. Reaching a status stamps its time. An ended batch is nobody's any more:
        the holder who ended it gets the same answer again, anybody else has lost his lease.
        """
        ...

    async def release(self, batch_id: str, epoch: int, delay_ms: int, *, wants_log: bool = False) -> None:
        """Give the batch back; it is due for work in `delay_ms`. `wants_log`: it did not get on for want of Kafka. No error if the lease
        was lost."""
        ...

    async def purge_ended(self, limit: int, retention_ms: int) -> list[str]:
        """Forget batches that ended longer ago than that. Returns their ids."""
        ...

    async def standing(self, batch_ids: Sequence[str]) -> list[BatchStatus | None]:
        """Where batches stand, whoever's they are; None: not known."""
        ...

    async def live(self) -> int:
        """How many batches have not ended. It costs the same however many there are."""
        ...

    async def stalled(self) -> int:
        """How many were last given back for want of Kafka, and have reached no other status since. It costs as little."""
        ...


class BlobStore(Protocol):
    """Immutable bytes under ids that the server made. Calls block: run them in a thread where a loop would notice."""

    def scratch(self) -> Path:
        """The path of a new file to write to; nobody else uses it. What is never published is swept away after a day."""
        ...

    def publish(self, scratch: Path, blob_id: str) -> None:
        """Make the file durable under the id: afterwards it is there whole, before it is not there at all. Replaces an earlier one. A
        scratch that is gone because it was published already is no error."""
        ...

    def open(self, blob_id: str) -> BinaryIO:
        """Raises FileNotKnown."""
        ...

    def borrow(self, blob_id: str, path: Path) -> None:
        """Make the bytes available at the local `path`, whatever happens to the blob afterwards. Raises FileNotKnown."""
        ...

    def delete(self, blob_id: str) -> None:
        """A blob that is not there is no error."""
        ...

    def stored(self) -> Iterator[tuple[str, float]]:
        """Every blob's id and its age in seconds."""
        ...

    def sweep_scratch(self, older_than_s: float) -> int:
        """Delete scratch files older than that; how many."""
        ...
