"""`headrace` as a user has it: a process in a folder, with an environment."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

WITHIN_S = 60.0


@dataclass(frozen=True)
class Told:
    code: int
    stdout: str
    stderr: str


class Command:
    """One that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ended(self, stdin: bytes = b"") -> Told:
        async with asyncio.timeout(WITHIN_S):
            stdout, stderr = await self.process.communicate(stdin)
        assert self.process.returncode is not None
        return Told(self.process.returncode, stdout.decode(), stderr.decode())

    async def kill(self) -> None:
        self.process.kill()
        await self.ended()


class Headrace:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}

    @asynccontextmanager
    async def start(self, *arguments: str) -> AsyncIterator[Command]:
        """Whatever the test does, nothing of it is left running."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headrace", *arguments),
            cwd=self.folder,
            env=self.environ,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            preexec_fn=_as_in_a_terminal,
        )
        command = Command(process)
        try:
            yield command
        finally:
            if process.returncode is None:
                await command.kill()

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Told:
        async with self.start(*arguments) as command:
            return await command.ended(stdin)


def _as_in_a_terminal() -> None:
    """A shell starts what runs in the background with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
