"""A connection to the store whose k-th command goes wrong. `kafka_fuse.py` has those to the log."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

from headrace.errors import QueueUnavailable
from headrace.queues.server import Command, Library, Server

KILLED = 9
"""Exit code of a process that its fuse ended."""


class Blow(StrEnum):
    """What becomes of the command, and of its process."""

    UNSENT = "unsent"
    UNANSWERED = "unanswered"
    """Carried out, and the reply is lost."""
    DEAD_BEFORE = "dead before"
    """The process ends before it sends the command."""
    DEAD_BEHIND = "dead behind"
    """The process ends when the command was carried out."""

    @property
    def deadly(self) -> bool:
        return self in (Blow.DEAD_BEFORE, Blow.DEAD_BEHIND)

    @property
    def carried_out(self) -> bool:
        return self in (Blow.UNANSWERED, Blow.DEAD_BEHIND)


@dataclass
class Fuse:
    """Counts the commands of all servers it is in, and blows once, at command `at` (from 1; 0: never)."""

    at: int = 0
    blow: Blow = Blow.UNSENT
    seen: list[str] = field(default_factory=list)
    """Names of the commands so far."""

    def passing(self, commands: Sequence[Command]) -> int | None:
        """How many of these the store still gets, if one of them is the one that goes wrong."""
        before = len(self.seen)
        self.seen += [command[1] if command[0] == "FCALL" else command[0] for command in commands]
        if not before < self.at <= len(self.seen):
            return None
        return self.at - before - (not self.blow.carried_out)

    def go_off(self, error: Exception) -> NoReturn:
        """Raises `error`, if the process does not end with this."""
        if self.blow.deadly:
            os._exit(KILLED)
        raise error


class FusedServer(Server):
    """The commands of a round trip are counted one by one: a connection may break, and its process die, in the middle of what it sends."""

    def __init__(self, url: str, library: Library, fuse: Fuse) -> None:
        super().__init__(url, library)
        self._fuse = fuse

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        passing = self._fuse.passing(commands)
        if passing is None:
            return await super()._send(commands)
        if passing:
            await super()._send(commands[:passing])
        self._fuse.go_off(QueueUnavailable(f"the connection broke at command {self._fuse.at}"))
