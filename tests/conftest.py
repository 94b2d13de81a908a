"""Fixtures for tests that need a real state store, or a real model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.embedded import EmbeddedValkey


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A server for the whole run. Whoever uses it deletes what is in it."""
    server = EmbeddedValkey(Path(tmp_path_factory.mktemp("valkey")))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The folder of the demo model, converted on first use into the user's cache."""
    # Imported here: most tests need neither, and they take a while.
    from headrace.model_folder import DEMO_MODEL
    from headrace.settings import Settings
    from workers.convert import ensure_folder

    return ensure_folder(DEMO_MODEL, Settings().cache_dir)
