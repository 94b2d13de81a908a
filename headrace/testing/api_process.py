"""`python -m producer_api` for tests: with the least of a model, on a port of its own."""

import asyncio
import os
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from headrace.testing.child import running
from headrace.testing.eventually import eventually
from headrace.testing.queue_environ import queue_environ
from headrace.testing.tree import free_port


class ApiProcess:
    """The process and where it listens; a killed one is started again on the same port."""

    def __init__(self, redis_url: str, model: Path, **environ: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._env = os.environ | {
            "HEADRACE_REDIS_URL": redis_url,
            "HEADRACE_MODEL": str(model),
            "HEADRACE_FILES_DIR": str(model.with_name("files")),
            "HEADRACE_PORT": str(port),
            "HEADRACE_SHUTDOWN_S": "2",
            **queue_environ(model),
            **environ,
        }

    @asynccontextmanager
    async def run(self, stderr: int = asyncio.subprocess.DEVNULL) -> AsyncIterator[Process]:
        async with running("producer_api", self._env, stderr) as process:
            yield process

    async def ready(self, http: httpx.AsyncClient) -> None:
        async def look() -> bool:
            try:
                return (await http.get("/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(look, pause=0.05)
