"""What `python -m scheduler` says of its own life."""

import os
import subprocess
import sys

from headrace.testing.store import Store


def test_it_says_that_it_stopped_as_told(valkey: Store) -> None:
    environ = {**os.environ, "HEADRACE_REDIS_URL": valkey.url}
    with subprocess.Popen([sys.executable, "-m", "scheduler"], env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("janitor sweeps" in line for line in process.stderr)
            process.terminate()
            said = process.stderr.read()
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert said.splitlines()[-1].endswith("scheduler: stopped")
