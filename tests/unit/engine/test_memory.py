"""What memory a process may use is read from where the system says it, and a KV cache beyond it is refused."""

import logging
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from headrace.errors import SettingsError
from workers.engine.memory import MB, Memory, check_kv_memory, read_memory


@pytest.fixture(autouse=True)
def machine_of_8_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=8_000, available=5_000))


def machine(root: Path, group: str, **limits: tuple[str, int, str]) -> Path:
    """`limits`: of each folder its memory.max, memory.current and memory.stat."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::/{group}\n")
    for folder, (most, current, stat) in limits.items():
        path = root / "sys/fs/cgroup" / folder.replace("_", "/")
        path.mkdir(parents=True, exist_ok=True)
        for name, text in (("max", most), ("current", str(current)), ("stat", stat)):
            (path / f"memory.{name}").write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("limits", "memory"),
    [
        ({}, Memory(8_000, 5_000)),
        ({"a": ("max", 100, "")}, Memory(8_000, 5_000)),
        ({"a": ("nonsense", 100, "")}, Memory(8_000, 5_000)),
        ({"a_b": ("6000", 3_000, "anon 2000\ninactive_file 400\nactive_file 100")}, Memory(6_000, 3_500)),
        ({"a": ("7000", 6_000, "anon 1"), "a_b": ("6000", 100, "anon 1")}, Memory(6_000, 1_000)),
        ({"a": ("9000", 0, "anon 1")}, Memory(8_000, 5_000)),
    ],
)
def test_the_least_of_machine_and_groups_counts(tmp_path: Path, limits: dict[str, tuple[str, int, str]], memory: Memory) -> None:
    assert read_memory(machine(tmp_path, "a/b", **limits)) == memory


def test_a_cache_that_can_never_be_had_is_refused() -> None:
    check_kv_memory(100, Memory(100 * MB, 100 * MB))
    with pytest.raises(SettingsError, match=r"=101 is more than the 100 MB that this process may use \(50 MB are free\)"):
        check_kv_memory(101, Memory(100 * MB, 50 * MB))


def test_one_that_cannot_be_had_now_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_kv_memory(50, Memory(100 * MB, 50 * MB))
        assert not caplog.messages
        check_kv_memory(51, Memory(100 * MB, 50 * MB))
    [told] = caplog.messages
    assert told.startswith("HEADRACE_KV_MEMORY_MB=51 is more than the 50 MB that are free now, of 100: ")
