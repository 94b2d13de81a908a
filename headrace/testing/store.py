"""A state store for tests: the one that HEADRACE_TEST_REDIS names; or else a Redis in a container, where Docker runs and the package
`testcontainers` is there; or else a Valkey of our own.

Tests that kill their store, or fill its memory, have one of our own always: `headrace/embedded.py`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.embedded import EmbeddedValkey
from headrace.testing.origin import Origin, choose, docker_runs

VARIABLE = "HEADRACE_TEST_REDIS"
"""A URL such as redis://localhost:6379/0. Tests empty that server, all its databases, again and again."""

IMAGE = "valkey/valkey:8.1"
_COMMAND = "valkey-server --appendonly yes --appendfsync always --maxmemory-policy noeviction"


@dataclass(frozen=True, slots=True)
class Store:
    url: str


@contextmanager
def new_store(folder: Path) -> Iterator[Store]:
    """`folder`: for one of our own."""
    match choose(VARIABLE, os.environ, docker_runs):
        case Origin.GIVEN:
            yield Store(os.environ[VARIABLE])
        case Origin.CONTAINER:
            # Not above: it is no package of ours, and few have it.
            from testcontainers.redis import RedisContainer

            with RedisContainer(IMAGE).with_command(_COMMAND) as container:
                yield Store(f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0")
        case Origin.OWN:
            server = EmbeddedValkey(folder)
            server.start()
            try:
                yield Store(server.url)
            finally:
                server.stop()
