"""A record as it was read from the log."""

from dataclasses import dataclass
from typing import Any, Self

from headrace.kafka.window import Partition

SUBSTITUTE = "\x1a"
"""In a header's name: what is not UTF-8. Unicode's own sign for it."""
UNREADABLE = f"{SUBSTITUTE}unreadable"
"""The header of a record that could not be decoded; its value says why."""
_SHOWN = 256
"""Of what a stranger has written: a flaw must fit into a record of its own, and into a line of the log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRecord:
    partition: Partition
    offset: int
    timestamp_ms: int
    """As its producer says, which may be anything."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @classmethod
    def of(cls, record: Any) -> Self:
        """From the client's own type."""
        return cls(
            partition=Partition(record.topic, record.partition),
            offset=record.offset,
            timestamp_ms=record.timestamp,
            key=record.key,
            value=record.value,
            headers=tuple(record.headers or ()),
        )

    @property
    def size(self) -> int:
        """Bytes it holds."""
        return len(self.key or b"") + len(self.value or b"") + sum(len(name) + len(value or b"") for name, value in self.headers)

    @property
    def unreadable(self) -> str | None:
        """Why nothing of it could be decoded, in words. Its producer may have used our own sign: any bytes make a sentence."""
        return next(((value or b"")[:_SHOWN].decode(errors="replace") for name, value in self.headers if name == UNREADABLE), None)

    @property
    def flaw(self) -> str | None:
        """Why it is none that anybody could mean, in words."""
        if (why := self.unreadable) is not None:
            return why
        for name, _ in self.headers:
            if SUBSTITUTE in name:
                return f"The name of the header {name[:_SHOWN].replace(SUBSTITUTE, '?')!r} is not UTF-8."
        return None

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        return f"{self.partition.topic}/{self.partition.number}@{self.offset}"
