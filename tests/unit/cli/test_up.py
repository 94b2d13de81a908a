from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.cli.up import LOADING, _waiting_for, address_of
from headrace.cli.worker_log import WorkerLog


@pytest.mark.parametrize(
    ("redis_url", "address"),
    [
        ("redis://:secret@store:6380/0", "store:6380"),
        ("rediss://me:secret@store", "store:6379"),
        ("redis://127.0.0.1:9/0?password=secret", "127.0.0.1:9"),
        ("unix:///run/store.sock?password=secret", "/run/store.sock"),
        ("redis://:sec/ret@store", "--redis-url"),
    ],
)
def test_an_address_tells_no_password(redis_url: str, address: str) -> None:
    assert address_of(redis_url) == address


async def test_a_start_that_takes_long_says_what_it_is_at(tmp_path: Path) -> None:
    workers: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"reasons": []} if request.url.path == "/ready" else {"workers": workers})

    log = WorkerLog(tmp_path / "workers.log")
    async with httpx.AsyncClient(base_url="http://api", transport=httpx.MockTransport(answer)) as client:
        assert await _waiting_for(client, log) == LOADING
        (tmp_path / "workers.log").write_text("2026-01-02 03:04:06,678 INFO engine[12] workers.kernels: compiling into [/x], once\n")
        assert await _waiting_for(client, log) == f"{LOADING}: compiling into \\[/x], once"  # as the console must get it
        workers.append({})
        assert await _waiting_for(client, log) is None
