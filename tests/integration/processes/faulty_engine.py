"""An engine process in which happens what its prompts say. Run by a supervisor as `python -m workers engine` is."""

import argparse
import asyncio
import ctypes
import os
import time
from pathlib import Path

from headrace.settings import load_settings
from headrace.supervise import stop_with_parent
from workers.__main__ import run_engine
from workers.backends.scripted import ScriptedEngine
from workers.ports import Delta
from workers.pulse import Pulse

CRASH, HANG_ONCE, FREEZE_ONCE = 666, 667, 668
ONCE = "HANGS_ONCE"
"""Variable with the path of a file that is there once it has happened. Not HEADRACE_…, whose unknown names are refused."""
FOR_EVER_S = 3_600


class FaultyEngine(ScriptedEngine):
    def step(self, timeout: float) -> list[Delta]:
        for run in self._runs.values():
            fault = run.request.prompt_ids[0]
            if fault == CRASH:
                os._exit(9)
            if fault in (HANG_ONCE, FREEZE_ONCE) and not Path(os.environ[ONCE]).exists():
                Path(os.environ[ONCE]).touch()
                if fault == HANG_ONCE:
                    time.sleep(FOR_EVER_S)
                ctypes.PyDLL(None).sleep(FOR_EVER_S)  # keeps the interpreter's lock: no other thread of this process runs
        time.sleep(0.002)
        return super().step(timeout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("pulse", type=int)
    arguments = parser.parse_args()
    turn = stop_with_parent()
    asyncio.run(run_engine(load_settings(), arguments.name, FaultyEngine(), turn=turn, pulse=Pulse(arguments.pulse)))


if __name__ == "__main__":
    main()
