from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.cli.command import Headrace
from tests.integration.cli.fake_api import FakeApi


@pytest.fixture
def headrace(tmp_path: Path) -> Headrace:
    return Headrace(tmp_path)


@pytest.fixture
async def fake() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def url(fake: FakeApi) -> AsyncIterator[str]:
    async with fake.serve() as url:
        yield url
