"""Carries out a plan of faults on a fleet."""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tests.chaos.fleet import SIZES, Fleet
from tests.chaos.load import Load
from tests.chaos.member import Member, send
from tests.chaos.plan import Fault, Strike
from tests.chaos.versions import Version

BETWEEN_S = 0.25
"""At least, from one strike to the next."""
AGAIN_S = 0.1
"""After a blow that hit nobody."""
HANG_S = 11.0
"""For ever, as long as a watchdog that looks on for eight seconds is concerned."""


@dataclass(frozen=True, slots=True)
class Struck:
    strike: Strike
    at: float
    """time.monotonic, when it began."""


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
                group.create_task(self._until_hit(strike))
                await asyncio.sleep(BETWEEN_S)

    async def _until_hit(self, strike: Strike) -> None:
        """Whoever is aimed at may be dead just now, and comes back."""
        while True:
            at = time.monotonic()
            if await self._strike(strike):
                self.struck.append(Struck(strike, at))
                return
            await asyncio.sleep(AGAIN_S)

    async def _strike(self, strike: Strike) -> bool:
        """Whether anybody was hit."""
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
                return await self._strike_one(strike)
        return True

    async def _strike_one(self, strike: Strike) -> bool:
        member = self._fleet.pick(strike.target, strike.index)
        match strike.fault:
            case Fault.KILL_API | Fault.KILL_SCHEDULER | Fault.KILL_CLERK | Fault.KILL_SUPERVISOR:
                return member.signal(signal.SIGKILL)
            case Fault.KILL_HOST:
                return _kill_host(member)
            case Fault.KILL_ENGINE | Fault.ZOMBIE | Fault.HANG:
                return await self._strike_engine(strike, member)
            case Fault.FREEZE_API | Fault.FREEZE_CLERK:
                return await _stop_for(strike.lasts_s, member.signal)
            case _:
                if not member.lives:
                    return False
                await self._fleet.wires.strike(member.name, strike.fault, strike.lasts_s)
                return True

    async def _strike_engine(self, strike: Strike, member: Member) -> bool:
        """One of them, so that its standby, if it was at work, has to take over. Who hangs and is not killed goes on as a zombie."""
        engines = member.engines()
        if not engines:
            return False
        hit = partial(send, engines[strike.index // SIZES[strike.target] % len(engines)])
        match strike.fault:
            case Fault.KILL_ENGINE:
                return hit(signal.SIGKILL)
            case Fault.HANG:
                return await _stop_for(HANG_S, hit)
            case _:
                return await _stop_for(strike.lasts_s, hit)


def _kill_host(member: Member) -> bool:
    engines = member.engines()
    if not engines or not member.signal(signal.SIGKILL):  # the supervisor first: it must not see them die
        return False
    for engine in engines:
        send(engine, signal.SIGKILL)
    return True


async def _stop_for(seconds: float, signal_it: Callable[[signal.Signals], bool]) -> bool:
    if not signal_it(signal.SIGSTOP):
        return False
    try:
        await asyncio.sleep(seconds)
    finally:
        signal_it(signal.SIGCONT)
    return True
