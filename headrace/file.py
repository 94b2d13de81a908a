"""A stored file, as its owner sees it. The bytes are a blob under the same id."""

from dataclasses import dataclass
from enum import StrEnum


class Purpose(StrEnum):
    BATCH = "batch"
    """Uploaded input of a batch."""
    BATCH_OUTPUT = "batch_output"
    """Made by a batch: its answers, or its errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    id: str
    tenant: str
    filename: str
    """As the uploader called it: shown, never used as a path."""
    purpose: Purpose
    size: int
    """Bytes."""
    created_ms: int
    """Unix milliseconds, of whoever made it."""
    expires_ms: int | None = None
    batch_id: str | None = None
    """The batch that still writes it: until it is done, the content is what is finished of it, in order. None: the blob has all of it."""
