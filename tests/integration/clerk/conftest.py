from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.testing.store import Store
from tests.integration.clerk.site import Site, open_site


@pytest.fixture
async def site(valkey: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr("scheduler.batches.run.LOOK_S", 0.0)
    async with open_site(valkey.url, tmp_path) as opened:
        yield opened
