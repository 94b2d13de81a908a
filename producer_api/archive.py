"""Where files and batches are kept."""

from dataclasses import dataclass, field

from headrace.batch_ports import BatchRegistry, BlobStore, FileRegistry
from headrace.files.journals import Journals


@dataclass(frozen=True, slots=True)
class Archive:
    files: FileRegistry
    batches: BatchRegistry
    blobs: BlobStore
    journals: Journals = field(default_factory=Journals)
