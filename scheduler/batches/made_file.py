"""A file that a batch makes: of answers, of errors, or of what it reads from a topic. Its id and name follow from the batch, so making it
again makes the same."""

from typing import Literal

from headrace.batch import Batch
from headrace.file import FileRecord, Purpose
from headrace.ids import made_file_id

Role = Literal["input", "output", "errors"]


def whole_file(batch: Batch, role: Role, *, size: int, made_ms: int, ttl_s: int) -> FileRecord:
    """The record of a file that is done, and kept for as long as the batch's owner asked, or else for `ttl_s`."""
    return _record(batch, role, size=size, created_ms=made_ms, expires_ms=made_ms + _kept_ms(batch, ttl_s), batch_id=None)


def growing_file(batch: Batch, role: Role, *, size: int, ttl_s: int) -> FileRecord:
    """The record of a file that the batch still writes.

    It expires too, later than the whole one can: a clerk who has lost the batch and does not know yet may leave one behind that nobody
    replaces any more.
    """
    created_ms = batch.in_progress_ms or batch.created_ms
    expires_ms = batch.expires_ms + _kept_ms(batch, ttl_s)
    return _record(batch, role, size=size, created_ms=created_ms, expires_ms=expires_ms, batch_id=batch.new.id)


def _kept_ms(batch: Batch, ttl_s: int) -> int:
    return 1_000 * (batch.new.output_ttl_s or ttl_s)


def _record(batch: Batch, role: Role, *, size: int, created_ms: int, expires_ms: int, batch_id: str | None) -> FileRecord:
    new = batch.new
    return FileRecord(
        id=made_file_id(new.id, role),
        tenant=new.tenant,
        filename=f"{new.id}_{role}.jsonl",
        purpose=Purpose.BATCH if role == "input" else Purpose.BATCH_OUTPUT,
        size=size,
        created_ms=created_ms,
        expires_ms=expires_ms,
        batch_id=batch_id,
    )
