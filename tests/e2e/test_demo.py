"""What the README tells a newcomer to run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from headrace.testing.queue_environ import queue_environ

DEMO = (sys.executable, "examples/demo.py")


def environ(folder: Path) -> dict[str, str]:
    return {**os.environ, **queue_environ(folder)}


def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    subprocess.run(DEMO, env=environ(tmp_path), check=True, timeout=280)


def test_a_demo_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    with subprocess.Popen(DEMO, env={**environ(tmp_path), "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout is not None
            assert any(line.startswith("starting: ") for line in demo.stdout), "its server never came so far"
            assert list(tmp_path.glob("headrace-demo-*"))
            demo.send_signal(signal.SIGTERM)
            demo.stdout.read()
            assert demo.wait(100) == 128 + signal.SIGTERM
        finally:
            demo.kill()
    assert list(tmp_path.iterdir()) == []
