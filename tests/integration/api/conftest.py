from collections.abc import AsyncIterator

import httpx
import pytest

from headrace.queues.memory import MemoryQueue
from headrace.settings import Settings
from headrace.testing.listening import listening
from headrace.testing.scripted_worker import Pace, ScriptedWorker
from headrace.testing.words import WordPrompter
from producer_api.app import create_app
from producer_api.catalog import Catalog
from producer_api.server import Server

MODEL = "test-model"


@pytest.fixture
def settings() -> Settings:
    return Settings(port=0, model=MODEL, max_body_bytes=65_536, job_ttl_s=3_600, shutdown_s=2)


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()


@pytest.fixture
async def server(queue: MemoryQueue, settings: Settings) -> Server:
    catalog = Catalog({MODEL: WordPrompter})
    await catalog.load()
    return Server(create_app(queue, catalog, settings), settings)


@pytest.fixture
async def url(server: Server) -> AsyncIterator[str]:
    async with listening(server) as url:
        yield url


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
async def pace() -> Pace:
    return Pace(free=False)


@pytest.fixture
async def worker(queue: MemoryQueue) -> AsyncIterator[ScriptedWorker]:
    """Answers at once."""
    async with ScriptedWorker(queue, model=MODEL).run() as worker:
        yield worker


@pytest.fixture
async def slow_worker(queue: MemoryQueue, pace: Pace) -> AsyncIterator[ScriptedWorker]:
    """Answers as fast as `pace` allows."""
    async with ScriptedWorker(queue, model=MODEL, pace=pace).run() as worker:
        yield worker
