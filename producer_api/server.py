"""uvicorn, taught to stop: an open stream would otherwise hold its shutdown for ever."""

import asyncio
import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from headrace.settings import Settings
from producer_api.services import Services

_WANTED_FILES = 65_536


class Server(uvicorn.Server):
    """Cuts unfinished streams as soon as it is told to stop, waits `shutdown_s` for the other open requests, and then cuts those."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                timeout_graceful_shutdown=settings.shutdown_s,
                access_log=False,
                proxy_headers=False,
                log_config=None,
                server_header=False,
            )
        )
        self.failed = False
        """It stopped by itself, because of a fault."""
        self.services: Services = app.state.services

    def request_stop(self) -> None:
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Signals are for the process to handle: uvicorn's way raises the signal again at the end, and nothing behind `serve` would run.
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.services.broken

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.failed = self.services.broken
        # Not left to the app's own shutdown event: that comes only after the last connection has closed.
        self.services.stop()
        await super().shutdown(sockets)


def quiet_cut_streams() -> None:
    """uvicorn reports what was cut on purpose, a stream or an upload that a shutdown did not wait for, as an error of the application."""
    logging.getLogger("uvicorn.error").addFilter(_is_fault)


def _is_fault(record: logging.LogRecord) -> bool:
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and "without completing response" not in record.msg


def raise_file_limit() -> None:
    """Every stream holds a descriptor, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
