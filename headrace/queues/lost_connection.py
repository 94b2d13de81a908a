"""One name for a connection that was lost, whichever event loop noticed it."""

from collections.abc import Iterator
from contextlib import contextmanager

_SAID_BY_UVLOOP = "handler is closed"


@contextmanager
def as_os_error() -> Iterator[None]:
    """Where a write meets a transport that has just been closed, asyncio's loops lose it in silence and the read behind it fails with an
    OSError, which redis-py knows. uvloop, on which the API runs, raises a RuntimeError, which nobody takes for an outage."""
    try:
        yield
    except RuntimeError as error:
        if _SAID_BY_UVLOOP not in str(error):
            raise
        raise ConnectionResetError(f"the connection was closed before a write: {error}") from error
