"""What work on batches asks of Kafka, where there is one."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from headrace.batch import Span
from headrace.kafka.log_record import LogRecord
from scheduler.kafka.log_ports import Sink


class TopicLog(Protocol):
    def read(self, topic: str, span: Span) -> AsyncGenerator[list[LogRecord], None]:
        """All records of the span, in order; equal calls give equal records, but for what is deleted or compacted meanwhile.

        Raises RangeGone, LogUnavailable.
        """
        ...

    def writing(self, topic: str) -> AbstractAsyncContextManager[Sink]:
        """What appends to the topic. That it is away is said by its appends."""
        ...
