"""One tree for the tests that do not bring it down."""

from collections.abc import Iterator

import pytest

from headrace.testing.tree import Tree, running_tree

#: A short grace, so that leaving is noticed soon; pings so frequent that every pause has some.
ENVIRONMENT = {"HEADRACE_VIEWER_GRACE_MS": "3000", "HEADRACE_PING_S": "0.2"}


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    with running_tree(tmp_path_factory.mktemp("tree") / "data", ENVIRONMENT) as running:
        yield running
