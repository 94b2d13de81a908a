"""An engine process with a step of fixed length, which hangs in it when asked to. A supervisor runs it as `python -m workers engine`."""

import argparse
import asyncio
import time
from pathlib import Path

from headrace.settings import load_settings
from headrace.supervise import stop_with_parent
from workers.__main__ import run_engine
from workers.backends.scripted import ScriptedEngine
from workers.ports import Delta
from workers.pulse import Pulse

HANGS = 667
"""A prompt that begins with it hangs the engine that is the first to run it, at its token HANGS_AT."""
HANGS_AT = 100
STEP_S = 0.02
FOR_EVER_S = 3_600
MAX_RUNNING = 128


class PacedEngine(ScriptedEngine):
    def __init__(self, marker: Path) -> None:
        """`marker` is written when it hangs: the time of the monotonic clock, which all processes share."""
        super().__init__(max_running=MAX_RUNNING)
        self._marker = marker

    def step(self, timeout: float) -> list[Delta]:
        time.sleep(STEP_S)
        for run in self._runs.values():
            if run.request.prompt_ids[0] == HANGS and not run.request.committed_ids and run.position == HANGS_AT:
                unfinished = self._marker.with_suffix(".new")
                unfinished.write_text(repr(time.monotonic()))
                unfinished.rename(self._marker)
                time.sleep(FOR_EVER_S)
        return super().step(timeout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("pulse", type=int)
    parser.add_argument("redis_url")
    parser.add_argument("model", help="its name")
    parser.add_argument("marker", type=Path)
    arguments = parser.parse_args()
    turn = stop_with_parent()
    settings = load_settings().model_copy(update={"redis_url": arguments.redis_url, "model_name": arguments.model})
    asyncio.run(run_engine(settings, arguments.name, PacedEngine(arguments.marker), turn=turn, pulse=Pulse(arguments.pulse)))


if __name__ == "__main__":
    main()
