"""What of a log may be committed: a partition's records are done in any order, and a commit says that all before it are.

A pure decider. Whoever reads the log reports what was assigned to it, delivered, done and revoked, and learns which offsets to commit and
which partitions to pause.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Partition(NamedTuple):
    topic: str
    number: int


class Arrival(NamedTuple):
    """A record that was delivered: where in its partition, and how many bytes it holds."""

    offset: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Water:
    """Where reading pauses, and where it goes on. Two marks, or every record that is done would flip the pause."""

    high: int
    """Records of one partition in flight at which it is paused."""
    low: int
    """At or below which it goes on."""
    high_bytes: int
    """Bytes in flight of all partitions at which all are paused: records differ by a factor of a thousand."""
    low_bytes: int

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high or not 0 <= self.low_bytes < self.high_bytes:
            raise ValueError(f"low water must be below high water, got {self}")


class Window:
    """One partition while it is ours. Offsets rise and need not be dense: compaction and transactions leave gaps."""

    def __init__(self) -> None:
        self._open: deque[Arrival] = deque()
        """What was delivered behind the prefix that is done, in order."""
        self._sizes: dict[int, int] = {}
        """Bytes by offset, of what is in flight."""
        self._last = -1
        self._prefix: int | None = None
        self._committed: int | None = None

    @property
    def in_flight(self) -> int:
        return len(self._sizes)

    @property
    def due(self) -> int | None:
        """The offset to commit, behind the contiguous prefix of what is done; None if that is committed already."""
        return None if self._prefix == self._committed else self._prefix

    def deliver(self, arrivals: Iterable[Arrival]) -> list[int]:
        """The offsets that are new: a seek or a retried fetch may deliver what is in flight, or done, once more."""
        new = []
        for arrival in arrivals:
            if arrival.offset > self._last:
                self._last = arrival.offset
                self._open.append(arrival)
                self._sizes[arrival.offset] = arrival.size
                new.append(arrival.offset)
        return new

    def done(self, offset: int) -> int:
        """Bytes that are no longer in flight. An offset that is not in flight is ignored: it was delivered to an earlier window."""
        size = self._sizes.pop(offset, 0)
        while self._open and self._open[0].offset not in self._sizes:
            self._prefix = self._open.popleft().offset + 1
        return size

    def committed(self, offset: int) -> None:
        self._committed = offset

    @property
    def bytes_in_flight(self) -> int:
        return sum(self._sizes.values())


class Windows:
    """All partitions that are ours now."""

    def __init__(self, water: Water) -> None:
        self._water = water
        self._windows: dict[Partition, Window] = {}
        self._full: set[Partition] = set()
        self._bytes = 0
        self._heavy = False

    @property
    def partitions(self) -> frozenset[Partition]:
        return frozenset(self._windows)

    @property
    def in_flight(self) -> int:
        return sum(window.in_flight for window in self._windows.values())

    @property
    def paused(self) -> frozenset[Partition]:
        """Partitions of which nothing more may be fetched now."""
        return self.partitions if self._heavy else frozenset(self._full)

    @property
    def due(self) -> dict[Partition, int]:
        """What to commit."""
        return {partition: window.due for partition, window in self._windows.items() if window.due is not None}

    def assign(self, partitions: Iterable[Partition]) -> None:
        """They are ours from now on, and begin anew; one that was ours already stays as it is."""
        for partition in partitions:
            self._windows.setdefault(partition, Window())

    def revoke(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """They are somebody else's: what to commit of them while that is still possible. All the rest is delivered again, there."""
        due = {partition: offset for partition, offset in self.due.items() if partition in partitions}
        for partition in partitions:
            if (window := self._windows.pop(partition, None)) is not None:
                self._bytes -= window.bytes_in_flight
        self._full.difference_update(partitions)
        self._weigh()
        return due

    def deliver(self, partition: Partition, arrivals: Collection[Arrival]) -> list[int]:
        """The offsets to work on: none of a partition that was revoked while its records were under way."""
        window = self._windows.get(partition)
        if window is None:
            return []
        new = window.deliver(arrivals)
        wanted = set(new)
        self._bytes += sum(arrival.size for arrival in arrivals if arrival.offset in wanted)
        if window.in_flight >= self._water.high:
            self._full.add(partition)
        self._weigh()
        return new

    def done(self, partition: Partition, offset: int) -> None:
        """Whatever it came to, the record needs no further work. Ignored of a partition that is no longer ours."""
        window = self._windows.get(partition)
        if window is None:
            return
        self._bytes -= window.done(offset)
        if window.in_flight <= self._water.low:
            self._full.discard(partition)
        self._weigh()

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """The log has these commits."""
        for partition, offset in offsets.items():
            if (window := self._windows.get(partition)) is not None:
                window.committed(offset)

    def _weigh(self) -> None:
        if self._bytes >= self._water.high_bytes:
            self._heavy = True
        elif self._bytes <= self._water.low_bytes:
            self._heavy = False
