"""Where files and batches are kept."""

from dataclasses import dataclass

from headrace.batch_ports import BatchRegistry, BlobStore, FileRegistry


@dataclass(frozen=True, slots=True)
class Archive:
    files: FileRegistry
    batches: BatchRegistry
    blobs: BlobStore
