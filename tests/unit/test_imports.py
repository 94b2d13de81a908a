"""Only the engine's process needs torch: every other one must start, small and fast, where it is not installed."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "numpy", "numba", "safetensors")

#: An absent package has no spec: a stub that raises on import is found, and some libraries then die of it.
PROBE = """
import importlib, importlib.abc, sys

heavy, module = sys.argv[1].split(","), sys.argv[2]

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in heavy:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Absent())
importlib.import_module(module)
loaded = sorted(name for name in heavy if name in sys.modules)
sys.exit(f"{module} imports {loaded}" if loaded else 0)
"""


@pytest.mark.parametrize(
    "module",
    [
        "producer_api.app",
        "producer_api.__main__",
        "scheduler.__main__",
        "scheduler.batches.__main__",
        "workers.__main__",
        "headrace.cli.main",
    ],
)
def test_starts_without_torch(module: str) -> None:
    run = subprocess.run([sys.executable, "-c", PROBE, ",".join(HEAVY), module], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("module", ["producer_api.__main__", "scheduler.__main__", "workers.__main__", "headrace.cli.main"])
def test_starts_without_a_client_of_kafka(module: str) -> None:
    run = subprocess.run([sys.executable, "-c", PROBE, "kafka", module], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
