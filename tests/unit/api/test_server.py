import asyncio
import logging
import sys

import pytest

from producer_api.server import quiet_cut_streams


def failed(error: BaseException) -> None:
    try:
        raise error
    except BaseException:
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=sys.exc_info())


def test_only_faults_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("uvicorn.error")
    before = list(log.filters)
    quiet_cut_streams()
    try:
        log.error("ASGI callable returned without completing response.")
        failed(asyncio.CancelledError())
        failed(ZeroDivisionError("a fault"))
    finally:
        log.filters[:] = before
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info and record.exc_info[1]] == [("a fault",)]
    assert len(caplog.records) == 1
