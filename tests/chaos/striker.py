"""Carries out a plan of faults on a fleet."""

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.fleet import Fleet
from tests.chaos.load import Load
from tests.chaos.member import send
from tests.chaos.plan import Fault, Strike
from tests.chaos.versions import Version

BETWEEN_S = 0.25
"""At least, from one strike to the next."""
HANG_S = 11.0
"""For ever, as long as a watchdog that looks on for eight seconds is concerned."""


@dataclass(frozen=True, slots=True)
class Struck:
    strike: Strike
    at: float
    """time.monotonic."""


class Striker:
    def __init__(self, fleet: Fleet, load: Load, this: Version, older: Version) -> None:
        self.struck: list[Struck] = []
        self._fleet = fleet
        self._load = load
        self._versions = {Fault.ROLL_NEW: this, Fault.ROLL_OLD: older}

    async def run(self, plan: Sequence[Strike]) -> None:
        """Returns once everything has struck and is over, so far as it ends by itself."""
        async with asyncio.TaskGroup() as group:
            for strike in plan:
                await self._load.reaches(strike.after)
                self.struck.append(Struck(strike, time.monotonic()))
                group.create_task(self._strike(strike))
                await asyncio.sleep(BETWEEN_S)

    async def _strike(self, strike: Strike) -> None:
        fleet, fault = self._fleet, strike.fault
        match fault:
            case Fault.KILL_STORE:
                await fleet.kill_store(strike.lasts_s)
            case Fault.KILL_ALL:
                await fleet.kill_all()
            case Fault.CLOCK_AHEAD:
                await fleet.jump(strike.lasts_s)
            case Fault.CLOCK_BACK:
                await fleet.jump(-strike.lasts_s)
            case Fault.ROLL_OLD | Fault.ROLL_NEW:
                await fleet.roll(self._versions[fault])
            case _:
                await self._strike_one(strike)

    async def _strike_one(self, strike: Strike) -> None:
        member = self._fleet.pick(strike.target, strike.index)
        match strike.fault:
            case Fault.KILL_API | Fault.KILL_SCHEDULER | Fault.KILL_SUPERVISOR:
                member.signal(signal.SIGKILL)
            case Fault.KILL_ENGINE | Fault.KILL_HOST:
                engines = member.engines()
                if strike.fault is Fault.KILL_HOST:
                    member.signal(signal.SIGKILL)  # first: it must not see them die
                for engine in engines:
                    send(engine, signal.SIGKILL)
            case Fault.ZOMBIE | Fault.HANG:
                await self._stop_engines(strike)
            case Fault.FREEZE_API:
                member.signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(strike.lasts_s)
                finally:
                    member.signal(signal.SIGCONT)
            case _:
                await self._fleet.wires.strike(member.name, strike.fault, strike.lasts_s)

    async def _stop_engines(self, strike: Strike) -> None:
        """Whoever hangs and has not been killed by then goes on as a zombie."""
        engines = self._fleet.pick(strike.target, strike.index).engines()
        for engine in engines:
            send(engine, signal.SIGSTOP)
        try:
            await asyncio.sleep(HANG_S if strike.fault is Fault.HANG else strike.lasts_s)
        finally:
            for engine in engines:
                send(engine, signal.SIGCONT)
