"""A worker whose engine computes nothing, takes its time, and dies of poison. Everything around the engine is the real thing.

Run by path and not as a module, so that it works on whichever version of the code is on PYTHONPATH; it may import nothing else.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence

from headrace.errors import SchemaUnknown
from headrace.lifecycle import configure, on_stop_signal
from headrace.queues import redis
from headrace.queues.connect import connect
from headrace.request import Request, decode_request
from headrace.settings import Settings
from headrace.supervise import stop_with_parent
from workers.__main__ import run_engine
from workers.backends.scripted import ScriptedEngine
from workers.ports import Delta
from workers.pulse import Patience, Pulse
from workers.supervisor import Supervisor

STEP_S = 0.01
READS = "CHAOS_READS"
"""Variable with the latest version of records that this process knows; all that its code does, if it is not set."""
POISON = "CHAOS_POISON"
"""Variable with the token id that kills the engine. Not HEADRACE_…, whose unknown names are refused."""


class ChaosEngine(ScriptedEngine):
    def __init__(self, max_running: int, poison: int) -> None:
        super().__init__(max_running=max_running)
        self._poison = poison

    def step(self, timeout: float) -> list[Delta]:
        if any(self._poison in run.request.prompt_ids for run in self._runs.values()):
            os._exit(9)
        if self._runs:
            time.sleep(STEP_S)
        return super().step(timeout)


def forget_later_versions(known: int) -> None:
    """Read records as code did that was older than all that there is to run."""

    def decode(raw: bytes | str | None) -> Request:
        request = decode_request(raw)
        if request.v > known:
            raise SchemaUnknown(f"version {request.v}, and {known} is the latest that is known")
        return request

    assert "decode_request" in vars(redis)
    vars(redis)["decode_request"] = decode


async def supervise(settings: Settings) -> None:
    stop = asyncio.Event()
    on_stop_signal(stop.set)
    patience = Patience(start=settings.start_timeout_s, step=settings.step_timeout_s)
    async with connect(settings) as queue:
        await Supervisor(settings.worker_name, queue, standbys=settings.standby, patience=patience, command=engine_command).run(stop)


def engine_command(worker: str, pulse_fd: int) -> Sequence[str]:
    return [sys.executable, "-P", __file__, "--engine", worker, "--pulse", str(pulse_fd)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine")
    parser.add_argument("--pulse", type=int)
    arguments = parser.parse_args()
    turn = stop_with_parent()
    if READS in os.environ:
        forget_later_versions(int(os.environ[READS]))
    if arguments.engine is None:
        asyncio.run(supervise(configure("worker")))
        return
    settings = configure("engine")
    engine = ChaosEngine(settings.max_running, int(os.environ[POISON]))
    asyncio.run(run_engine(settings, arguments.engine, engine, turn=turn, pulse=Pulse(arguments.pulse)))


if __name__ == "__main__":
    main()
