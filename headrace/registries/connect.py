"""From settings to the registries: what the processes' composition roots call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from headrace.queues.server import serving
from headrace.registries.batches import RedisBatches
from headrace.registries.files import RedisFiles
from headrace.registries.library import read_library
from headrace.settings import Settings


class Registries(NamedTuple):
    files: RedisFiles
    batches: RedisBatches


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[Registries]:
    """The registries on the settings' store, which need not be there yet; closed at the end. Raises SettingsError for a bad URL."""
    async with serving(settings.redis_url, read_library()) as server:
        yield Registries(RedisFiles(server), RedisBatches(server))
