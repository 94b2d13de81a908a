from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

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
def queue() -> MemoryQueue:
    return MemoryQueue()


@pytest.fixture
async def server(queue: MemoryQueue) -> Server:
    settings = Settings(port=0, model=MODEL, ping_s=0.02, shutdown_s=2)
    catalog = Catalog({MODEL: WordPrompter})
    await catalog.load()
    return Server(create_app(queue, catalog, settings), settings)


@pytest.fixture
async def url(server: Server) -> AsyncIterator[str]:
    async with listening(server) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    """The official client with its defaults: two retries."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", timeout=20) as client:
        yield client


@pytest.fixture
async def pace() -> Pace:
    return Pace()


@pytest.fixture(autouse=True)
async def worker(queue: MemoryQueue, pace: Pace) -> AsyncIterator[ScriptedWorker]:
    async with ScriptedWorker(queue, model=MODEL, pace=pace).run() as worker:
        yield worker
