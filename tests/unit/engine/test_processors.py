"""What a process may use is read from where the system says it."""

import os
from pathlib import Path

import pytest

from workers.engine.processors import count_processors


@pytest.fixture(autouse=True)
def bound_to_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def machine(root: Path, group: str, quotas: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{group}\n")
    for folder, quota in quotas.items():
        path = root / "sys/fs/cgroup" / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "cpu.max").write_text(quota + "\n")
    return root


@pytest.mark.parametrize(
    ("group", "quotas", "count"),
    [
        ("/", {}, 8),
        ("/", {"": "max 100000"}, 8),
        ("/", {"": "200000 100000"}, 2),
        ("/", {"": "250000 100000"}, 2),
        ("/", {"": "50000 100000"}, 1),
        ("/", {"": "1600000 100000"}, 8),
        ("/a/b", {"a/b": "max 100000", "a": "300000 100000"}, 3),
        ("/a/b", {"a/b": "400000 100000", "a": "600000 100000", "": "500000 100000"}, 4),
        ("/", {"": "nonsense"}, 8),
    ],
)
def test_the_least_of_affinity_and_quotas_counts(tmp_path: Path, group: str, quotas: dict[str, str], count: int) -> None:
    assert count_processors(machine(tmp_path, group, quotas)) == count


def test_where_there_are_no_control_groups_affinity_counts(tmp_path: Path) -> None:
    assert count_processors(tmp_path) == 8


def test_where_there_is_no_affinity_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert count_processors(tmp_path) == 3
