from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from headrace.batch_ports import BatchWork
from headrace.files.folder import FolderBlobs
from headrace.registries.connect import Registries, connect
from headrace.settings import Settings
from headrace.testing.backend import Backend
from headrace.testing.bench import Queue
from headrace.testing.builders import ManualClock
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
def files_dir(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
def settings(files_dir: Path) -> Settings:
    return Settings(
        port=0, model=MODEL, max_body_bytes=65_536, max_file_bytes=3_000_000, files_dir=files_dir, job_ttl_s=3_600, shutdown_s=2
    )


@pytest.fixture
def clock(backend: Backend) -> ManualClock:
    """For a queue whose time does not pass by itself."""
    return backend.clock()


@pytest.fixture
async def queue(backend: Backend) -> AsyncIterator[Queue]:
    async with backend.open() as queue:
        yield queue


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
async def server(queue: Queue, archive: Archive, settings: Settings) -> Server:
    catalog = Catalog({MODEL: WordPrompter})
    await catalog.load()
    return Server(create_app(queue, archive, catalog, settings), settings)


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
async def worker(queue: Queue) -> AsyncIterator[ScriptedWorker]:
    """Answers at once."""
    async with ScriptedWorker(queue, model=MODEL).run() as worker:
        yield worker


@pytest.fixture
async def slow_worker(queue: Queue, pace: Pace) -> AsyncIterator[ScriptedWorker]:
    """Answers as fast as `pace` allows."""
    async with ScriptedWorker(queue, model=MODEL, pace=pace).run() as worker:
        yield worker
