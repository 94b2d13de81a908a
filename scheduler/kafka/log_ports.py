"""What the pump asks of the log."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from headrace.kafka.log_record import LogRecord


class Source(Protocol):
    """A share of the log's records, at least once each."""

    async def batch(self) -> list[LogRecord]:
        """The next ones; waits for some. Stops while too many are not done."""
        ...

    def done(self, record: LogRecord) -> None:
        """It needs no further work, whatever it came to."""
        ...


class Sink(Protocol):
    async def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Returns when the log has it. Raises LogUnavailable; RequestTooLarge if the log never takes it."""
        ...


class Archive(Protocol):
    def read(self, topic: str, *, since_ms: int = 0) -> AsyncIterator[list[LogRecord]]:
        """All that the topic holds now, of records since `since_ms`. Raises LogUnavailable."""
        ...
