"""Where files and batches are kept."""

from dataclasses import dataclass, field

from headrace.batch_ports import BatchRegistry, BatchTopics, BlobStore, FileRegistry
from headrace.files.journals import Journals


@dataclass(frozen=True, slots=True)
class Archive:
    files: FileRegistry
    batches: BatchRegistry
    blobs: BlobStore
    topics: BatchTopics | None = None
    """None: there is no Kafka."""
    journals: Journals = field(default_factory=Journals)
