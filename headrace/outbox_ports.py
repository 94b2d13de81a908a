"""The port of the outbox: what whoever tells a log of the ends of jobs asks of the state store.

Every method is one atomic call of a shard and may be repeated. What was relayed is told once more after a crash: at least once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.cursor import LogPosition
from headrace.request import Lane


@dataclass(frozen=True, slots=True)
class Ended:
    """An entry of the outbox."""

    entry: str
    """Its place; entries rise."""
    job_id: str
    tenant: str
    lane: Lane | None
    """None: the job is gone, forgotten by whoever had its result."""
    client_id: str | None
    """What a native client calls it; None of a job that came by other ways."""
    has_key: bool
    """It was submitted under a key of its submitter's."""
    traceparent: str | None
    """The trace that its client has it in."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A job whose tokens are to be told."""

    job_id: str
    position: LogPosition
    """Told up to here."""
    client_id: str | None


@dataclass(frozen=True, slots=True)
class AskedPage:
    """Whoever is asked for all the while from one cursor 0 to the next is on some page between them."""

    jobs: list[Asked]
    cursor: int
    """Of the next page; 0 if that is the first one again."""


class Outbox(Protocol):
    @property
    def shards(self) -> int: ...

    async def ended(self, shard: int, *, owner: str, lease_ms: int, limit: int) -> list[Ended] | None:
        """The next entries, oldest first; None while another owner relays."""
        ...

    async def relayed(self, shard: int, entry: str) -> None:
        """All up to `entry` is in the log."""
        ...

    async def waiting(self, limit: int) -> int:
        """How many entries wait to be relayed; counts no further than `limit` in each shard."""
        ...

    async def trace(self, job_id: str, traceparent: str, ttl_ms: int) -> None:
        """The end of the job, which lives for `ttl_ms` at most, is told with its trace. To be said before the job is admitted, or its end
        may be told by then."""
        ...

    async def ask(self, job_id: str) -> None:
        """The job's tokens are to be told. Asking again for what was told already has it told again."""
        ...

    async def asked(self, shard: int, *, owner: str, lease_ms: int, limit: int, cursor: int) -> AskedPage | None:
        """About `limit` of them, from the `cursor` of the page before; None while another owner relays."""
        ...

    async def told(self, shard: int, positions: Sequence[tuple[str, LogPosition | None]]) -> None:
        """How far the tokens of jobs are in the log; None: to their end."""
        ...


class Recovery(Protocol):
    """What whoever fills a store anew from a log asks of it."""

    async def recovered(self) -> bool:
        """All that the log held is here. False of a store that is new, or was lost and made anew."""
        ...

    async def recover(self, *, owner: str, lease_ms: int) -> bool:
        """It is `owner`'s business for so long; asking again prolongs it. False: somebody else is at it."""
        ...

    async def end_recovery(self) -> None: ...

    async def entomb(self, ended: Sequence[tuple[str, str]]) -> int:
        """(job id, tenant) of jobs that ended in the store that was lost: they are known as purged. How many were news."""
        ...
