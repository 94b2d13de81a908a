"""Where a server that tests need comes from: the first of what the environment names, a container where Docker runs, and one of our own."""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from importlib.util import find_spec

DOCKER_S = 10.0


class Origin(StrEnum):
    GIVEN = "given"
    CONTAINER = "container"
    OWN = "own"


def choose(variable: str, environ: Mapping[str, str], docker_runs: Callable[[], bool]) -> Origin:
    """`variable` names the server, if there is one. Docker is not asked where the environment says enough."""
    if environ.get(variable):
        return Origin.GIVEN
    return Origin.CONTAINER if docker_runs() else Origin.OWN


@cache
def docker_runs() -> bool:
    """And there is the package that tells it what to run."""
    docker = shutil.which("docker")
    if docker is None or find_spec("testcontainers") is None:
        return False
    try:
        asked = subprocess.run((docker, "info"), capture_output=True, timeout=DOCKER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0
