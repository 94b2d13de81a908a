"""What work on batches takes, made once per process or task by whoever composes it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from headrace.batch_ports import BatchWork, BlobStore, FileRegistry
from headrace.files.journals import Journals
from headrace.ports import JobQueue
from headrace.wire.prompter import Prompters
from scheduler.batches.rest import Rest
from scheduler.batches.topic_ports import TopicLog
from scheduler.batches.validate import InputLimits


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    queue: JobQueue
    files: FileRegistry
    batches: BatchWork
    blobs: BlobStore
    prompters: Prompters
    journals: Journals
    root: Path
    """The folder of files and workspaces."""
    limits: InputLimits
    file_ttl_s: int
    clock: Callable[[], float]
    """Monotonic seconds."""
    now_ms: Callable[[], int]
    """Unix milliseconds."""
    topics: TopicLog | None = None
    """None: there is no Kafka."""
    rest: Rest = field(default_factory=Rest)
    """From Kafka; of the process."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """The process was told to stop: whoever waits for others gives up."""
