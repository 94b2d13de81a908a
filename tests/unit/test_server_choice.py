"""Which servers tests run on."""

import subprocess
from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from headrace.testing import origin
from headrace.testing.origin import Origin, choose, docker_runs

VARIABLE = "HEADRACE_TEST_REDIS"


def never() -> bool:
    raise AssertionError("nobody need be asked")


def test_what_the_environment_names_comes_first() -> None:
    assert choose(VARIABLE, {VARIABLE: "redis://a"}, never) is Origin.GIVEN


@pytest.mark.parametrize(("runs", "chosen"), [(True, Origin.CONTAINER), (False, Origin.OWN)])
@pytest.mark.parametrize("environ", [{}, {VARIABLE: ""}])
def test_then_a_container_where_docker_runs(environ: dict[str, str], runs: bool, chosen: Origin) -> None:
    assert choose(VARIABLE, environ, lambda: runs) is chosen


@pytest.mark.parametrize(
    ("there", "answer", "runs"),
    [
        (False, 0, False),
        (True, 0, True),
        (True, 1, False),
        (True, FileNotFoundError("docker"), False),
        (True, subprocess.TimeoutExpired("docker", 10.0), False),
    ],
)
def test_docker_runs_if_it_answers_and_can_be_told(
    there: bool, answer: int | Exception, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(command: Any, **_: Any) -> "subprocess.CompletedProcess[bytes]":
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess(command, answer)

    monkeypatch.setattr(origin, "find_spec", lambda name: ModuleSpec(name, None) if there else None)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", ask)
    docker_runs.cache_clear()
    try:
        assert docker_runs() is runs
    finally:
        docker_runs.cache_clear()
