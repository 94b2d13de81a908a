from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from headrace.batch_ports import BatchWork
from headrace.files.folder import FolderBlobs
from headrace.registries.connect import Registries, connect
from headrace.settings import Settings
from headrace.testing.backend import Backend
from headrace.testing.bench import Queue
from headrace.testing.listening import listening
from headrace.testing.scripted_worker import Pace, ScriptedWorker
from headrace.testing.store import Store
from headrace.testing.words import WordPrompter
from producer_api.app import create_app
from producer_api.archive import Archive
from producer_api.catalog import Catalog
from producer_api.server import Server

MODEL = "test-model"


@pytest.fixture
async def queue(backend: Backend) -> AsyncIterator[Queue]:
    async with backend.open() as queue:
        yield queue


@pytest.fixture
def files_dir(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
async def registries(valkey: Store) -> AsyncIterator[Registries]:
    async with connect(Settings(redis_url=valkey.url)) as registries:
        yield registries


@pytest.fixture
def archive(registries: Registries, files_dir: Path) -> Archive:
    return Archive(registries.files, registries.batches, FolderBlobs(files_dir))


@pytest.fixture
def work(registries: Registries) -> BatchWork:
    """The side of those who work on batches, played by the test."""
    return registries.batches


@pytest.fixture
async def server(queue: Queue, archive: Archive, files_dir: Path) -> Server:
    settings = Settings(port=0, model=MODEL, files_dir=files_dir, max_file_bytes=1_000_000, ping_s=0.02, shutdown_s=2)
    catalog = Catalog({MODEL: WordPrompter})
    await catalog.load()
    return Server(create_app(queue, archive, catalog, settings), settings)


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
async def worker(queue: Queue, pace: Pace) -> AsyncIterator[ScriptedWorker]:
    async with ScriptedWorker(queue, model=MODEL, pace=pace).run() as worker:
        yield worker
