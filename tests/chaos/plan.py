"""The faults of a run, decided beforehand from its seed.

A fault strikes when so many orders are over, and not at a time: so a slow machine gets the same ones, and all of them.
"""

import random
from dataclasses import dataclass
from enum import StrEnum

ORDERS_PER_FAULT = 80


class Target(StrEnum):
    """What a fault is aimed at."""

    API = "api"
    WORKER = "worker"
    SCHEDULER = "scheduler"
    CLERK = "clerk"
    STORE = "store"
    ALL = "all"


class Fault(StrEnum):
    KILL_API = "kill -9 API"
    KILL_ENGINE = "kill -9 engine"
    KILL_SUPERVISOR = "kill -9 supervisor"
    KILL_HOST = "kill -9 engine and supervisor"
    KILL_SCHEDULER = "kill -9 scheduler"
    KILL_CLERK = "kill -9 clerk"
    KILL_STORE = "kill -9 Valkey"
    KILL_ALL = "kill -9 everything"
    ZOMBIE = "engine stopped for three leases"
    HANG = "engine stopped for ever"
    FREEZE_API = "API stopped for a while"
    FREEZE_CLERK = "clerk stopped for longer than its lease"
    DELAY = "wire: late"
    DROP = "wire: replies lost"
    SILENCE = "wire: half-open"
    RESET = "wire: reset"
    THROTTLE = "wire: slow"
    CLOCK_AHEAD = "clock ahead"
    CLOCK_BACK = "clock back"
    ROLL_OLD = "rolling restart into older code"
    ROLL_NEW = "rolling restart into this code"


WIRE = (Target.API, Target.WORKER, Target.WORKER, Target.SCHEDULER, Target.CLERK)

TARGETS: dict[Fault, tuple[Target, ...]] = {
    Fault.KILL_API: (Target.API,),
    Fault.KILL_ENGINE: (Target.WORKER,),
    Fault.KILL_SUPERVISOR: (Target.WORKER,),
    Fault.KILL_HOST: (Target.WORKER,),
    Fault.KILL_SCHEDULER: (Target.SCHEDULER,),
    Fault.KILL_CLERK: (Target.CLERK,),
    Fault.KILL_STORE: (Target.STORE,),
    Fault.KILL_ALL: (Target.ALL,),
    Fault.ZOMBIE: (Target.WORKER,),
    Fault.HANG: (Target.WORKER,),
    Fault.FREEZE_API: (Target.API,),
    Fault.FREEZE_CLERK: (Target.CLERK,),
    Fault.DELAY: WIRE,
    Fault.DROP: WIRE,
    Fault.SILENCE: WIRE,
    Fault.RESET: WIRE,
    Fault.THROTTLE: WIRE,
    Fault.CLOCK_AHEAD: (Target.STORE,),
    Fault.CLOCK_BACK: (Target.STORE,),
    Fault.ROLL_OLD: (Target.ALL,),
    Fault.ROLL_NEW: (Target.ALL,),
}

OFTEN = (
    *[Fault.KILL_ENGINE, Fault.KILL_API, Fault.ZOMBIE] * 2,
    *(Fault.KILL_SUPERVISOR, Fault.KILL_HOST, Fault.KILL_CLERK, Fault.KILL_STORE, Fault.SILENCE, Fault.DROP, Fault.RESET),
)
"""What a round has beyond one of each."""

LASTS_S: dict[Fault, tuple[float, float]] = {
    Fault.KILL_STORE: (0.0, 1.5),
    Fault.ZOMBIE: (4.5, 6.0),
    Fault.FREEZE_API: (1.0, 4.0),
    Fault.FREEZE_CLERK: (5.5, 8.0),
    Fault.DELAY: (1.0, 4.0),
    Fault.DROP: (0.3, 1.5),
    Fault.SILENCE: (0.5, 6.0),
    Fault.RESET: (0.3, 0.3),
    Fault.THROTTLE: (1.0, 4.0),
    Fault.CLOCK_AHEAD: (2.0, 12.0),
    Fault.CLOCK_BACK: (1.0, 5.0),
}
"""Seconds: how long it lasts, or how far a clock jumps. A lease is 1.5 s, a clerk's 5; a viewer has 120 to come back."""


@dataclass(frozen=True, slots=True)
class Strike:
    after: int
    """Orders that are over when it strikes."""
    fault: Fault
    target: Target
    index: int
    """Which of its kind."""
    lasts_s: float


def make_plan(seed: int, orders: int) -> list[Strike]:
    """One of each fault in any order, then rounds of those and the frequent ones; the last strikes while there is still much to do."""
    rng = random.Random(f"faults {seed}")
    faults = rng.sample(list(Fault), len(Fault))
    while len(faults) < orders // ORDERS_PER_FAULT:
        bag = [*Fault, *OFTEN]
        faults += rng.sample(bag, len(bag))
    faults = faults[: max(len(Fault), orders // ORDERS_PER_FAULT)]
    times = sorted(rng.randrange(orders // 50, orders - orders // 10) for _ in faults)
    return [_strike(after, fault, rng) for after, fault in zip(times, faults, strict=True)]


def _strike(after: int, fault: Fault, rng: random.Random) -> Strike:
    return Strike(after, fault, rng.choice(TARGETS[fault]), rng.randrange(6), rng.uniform(*LASTS_S.get(fault, (0.0, 0.0))))
