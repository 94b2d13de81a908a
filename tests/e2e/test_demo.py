"""What the README tells a newcomer to run."""

import subprocess
import sys


def test_the_demo_keeps_its_promises() -> None:
    subprocess.run([sys.executable, "examples/demo.py"], check=True, timeout=280)
