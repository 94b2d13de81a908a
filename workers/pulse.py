"""The pulse of an engine process, felt from outside.

    engine process      beats while its event loop turns and its engine does not stay in one call; writes into shared memory
    supervisor          looks; what has stood still for too long is killed

So whatever stops the process is noticed: a kernel that spins, a lock on the interpreter that is never given back, SIGSTOP. Memory, and not
a pipe, as nobody ever waits for it: neither the one who beats for a supervisor that is stopped, nor the other way round.
"""

import asyncio
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

from workers.engine_thread import EngineThread

BEAT_S = 0.1
LOOK_S = 0.25
MEDIANS = 20
"""A step that takes this many times the median is stuck, unless that is less than `Patience.step`."""

_UNSEEN_S = BEAT_S + 2 * LOOK_S
"""How long it may have stood still beyond what was counted: a last beat tells that a call has begun, one look finds it, one decides."""

_LAYOUT = struct.Struct("=Qd")


class Pulse:
    """A counter of beats, and the median step in seconds as of the last one. One process writes, another reads."""

    def __init__(self, fd: int) -> None:
        """`fd` stays open and is the object's own."""
        self.fd = fd
        self._memory = mmap.mmap(fd, _LAYOUT.size)

    @classmethod
    def create(cls) -> Self:
        """It goes with the last process that has it open."""
        if sys.platform == "linux":
            fd = os.memfd_create("pulse")  # no file: writing to a mapped one kills the process where the disk is full
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.truncate(fd, _LAYOUT.size)
        return cls(fd)

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)

    @property
    def beats(self) -> int:
        beats: int = _LAYOUT.unpack_from(self._memory)[0]
        return beats

    @property
    def median_step_s(self) -> float:
        median: float = _LAYOUT.unpack_from(self._memory)[1]
        return median

    def beat(self, median_step_s: float) -> None:
        _LAYOUT.pack_into(self._memory, 0, self.beats + 1, median_step_s)


@asynccontextmanager
async def beating(pulse: Pulse | None, engine: EngineThread) -> AsyncIterator[None]:
    """Beats meanwhile; None: nobody watches."""
    if pulse is None:
        yield
        return
    task = asyncio.ensure_future(_keep_beating(pulse, engine))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _keep_beating(pulse: Pulse, engine: EngineThread) -> None:
    """As long as this loop turns, but not while the engine is still in the call it was in at the last beat."""
    last = (0, 0)
    while True:
        calls = engine.calls
        if calls != last or calls[0] == calls[1]:
            pulse.beat(engine.median_step_s)
        last = calls
        await asyncio.sleep(BEAT_S)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds within which a process that stands still is given up."""

    start: float
    """From its start to its first beat: the model is converted, loaded and warmed up in between."""
    step: float
    """Later; longer where steps are long."""


class Watch:
    """Decides whether one process hangs."""

    def __init__(self, patience: Patience, beats: int) -> None:
        """`beats` when the process was started."""
        self._patience = patience
        self._beats = beats
        self.started = False
        """It has beaten: it is warmed up."""
        self.still_s = 0.0
        """For how long it has stood still, as far as that was counted."""

    def hangs(self, beats: int, median_step_s: float, passed: float) -> bool:
        """`passed` seconds after the last look, or the start. A supervisor that slept itself must not count all of its sleep."""
        if beats != self._beats:
            self._beats, self.started, self.still_s = beats, True, 0.0
            return False
        self.still_s += min(passed, 2 * LOOK_S)
        limit = max(self._patience.step, MEDIANS * median_step_s) if self.started else self._patience.start
        return self.still_s > limit - _UNSEEN_S
