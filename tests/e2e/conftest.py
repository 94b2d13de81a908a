"""One tree for the tests that do not bring it down, and the official client of it."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from headrace.testing.tree import Tree, running_tree

#: A short grace, so that leaving is noticed soon; pings so frequent that every pause has some.
ENVIRONMENT = {"HEADRACE_VIEWER_GRACE_MS": "3000", "HEADRACE_PING_S": "0.2"}


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    with running_tree(tmp_path_factory.mktemp("tree") / "data", ENVIRONMENT) as running:
        yield running


@pytest.fixture
def client(tree: Tree) -> Iterator[OpenAI]:
    tree.wait_until_ready()
    with OpenAI(base_url=f"{tree.url}/v1", api_key="unused", timeout=60) as made:
        yield made
