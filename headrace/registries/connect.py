"""From settings to the registries: what the processes' composition roots call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from headrace.errors import SettingsError
from headrace.kafka.address import address_of
from headrace.queues.server import serving
from headrace.registries.batches import RedisBatches
from headrace.registries.files import RedisFiles
from headrace.registries.library import read_library
from headrace.settings import Settings

if TYPE_CHECKING:
    from headrace.kafka.batch_topics import KafkaBatchTopics


class Registries(NamedTuple):
    files: RedisFiles
    batches: RedisBatches
    topics: "KafkaBatchTopics | None"
    """None: there is no Kafka."""


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[Registries]:
    """The registries on the settings' store, which need not be there yet; closed at the end. Raises SettingsError for a bad URL."""
    topics = _topics(settings)
    async with serving(settings.redis_url, read_library()) as server:
        yield Registries(RedisFiles(server), RedisBatches(server), topics)


def _topics(settings: Settings) -> "KafkaBatchTopics | None":
    address = address_of(settings)
    if address is None:
        return None
    try:
        # Not above: the client is there only where Kafka is wanted.
        from headrace.kafka.batch_topics import KafkaBatchTopics
    except ModuleNotFoundError as error:
        raise SettingsError(f"HEADRACE_QUEUE_URL needs the package {error.name}: pip install headrace[kafka]") from None
    return KafkaBatchTopics.of(settings, address)
