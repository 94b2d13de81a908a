"""One of Headrace's processes, run by a test and gone with it."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import IO


@asynccontextmanager
async def running(module: str, env: Mapping[str, str], stderr: int | IO[bytes] = DEVNULL) -> AsyncIterator[Process]:
    """`python -m module`; killed if it still lives at the end."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, env=dict(env), stderr=stderr)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
