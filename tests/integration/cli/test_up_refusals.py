"""`headrace up` refuses what its processes would, before it makes a folder or starts one."""

import pytest

from tests.integration.cli.command import Headrace


@pytest.mark.parametrize(
    ("variable", "value"), [("HEADRACE_REDIS_URL", "localhost:6379"), ("HEADRACE_REDIS_URL", "redis://x:port"), ("HEADRACE_RQ_URL", "x")]
)
async def test_a_url_that_is_none_is_named(headrace: Headrace, variable: str, value: str) -> None:
    headrace.environ[variable] = value
    told = await headrace("up")
    assert told.code == 1
    assert variable in told.stderr
    assert "must be a redis://" in told.stderr
    assert not list(headrace.folder.iterdir())
