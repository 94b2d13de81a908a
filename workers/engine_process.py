"""An engine process as its supervisor sees it: kept alive, told when its turn has come, and killed when it hangs."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from headrace.supervise import Supervised, ending
from workers.pulse import LOOK_S, Patience, Pulse, Watch

logger = logging.getLogger(__name__)

Command = Callable[[str, int], Sequence[str]]
"""Worker id and the descriptor of its pulse → command line."""


class EngineProcess:
    """Every start of it has an id of its own, so that reaping a dead one can never touch its successor's jobs."""

    def __init__(
        self,
        name: str,
        command: Command,
        patience: Patience,
        *,
        on_start: Callable[["EngineProcess"], None],
        on_warm: Callable[["EngineProcess"], None],
        on_death: Callable[["EngineProcess", str, str], Awaitable[None]],
    ) -> None:
        """`on_warm` is called once a start of it is warmed up. `on_death` also gets the id of the one that died, and how it ended."""
        self._name = name
        self._patience = patience
        self._on_start = on_start
        self._on_warm = on_warm
        self._hung_s: float | None = None
        self._pulse = Pulse.create()
        self._watch = Watch(patience, self._pulse.beats)
        self._child = Supervised(
            "the engine process",
            lambda start: command(self._id(start), self._pulse.fd),
            on_start=self._started,
            on_death=lambda start, code: on_death(self, self._id(start), self._how(code)),
            pass_fds=(self._pulse.fd,),
        )

    @property
    def lives(self) -> bool:
        return self._child.lives

    @property
    def stopping(self) -> bool:
        return self._child.stopping

    async def run(self) -> None:
        """Until `stop`. Raises ChildMisconfigured."""
        watching = asyncio.ensure_future(self._keep_watch())
        try:
            await self._child.run()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            self._pulse.close()

    async def stop(self, grace: float) -> None:
        await self._child.stop(grace)

    def begin(self) -> None:
        """Its turn has come: it takes work as soon as it can."""
        self._child.nudge()

    def _id(self, start: int) -> str:
        return f"{self._name}.{start}"

    def _how(self, code: int) -> str:
        hung_s, self._hung_s = self._hung_s, None
        return ending(code) if hung_s is None else f"{ending(code)}, as it stood still for {hung_s:.1f} s"

    def _started(self, _start: int) -> None:
        self._watch = Watch(self._patience, self._pulse.beats)
        self._on_start(self)

    async def _keep_watch(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            was_warm = self._watch.started
            if self._child.lives and self._watch.hangs(self._pulse.beats, self._pulse.median_step_s, now - last):
                self._hung_s = self._watch.still_s
                logger.critical("%s hangs and is killed: it stood still for %.1f s", self._id(self._child.restarts), self._watch.still_s)
                self._child.kill()
            if self._watch.started and not was_warm:
                self._on_warm(self)
            last = now
