"""How much memory this process may come to use, and how much of that is free now: the machine's, and what its control groups allow."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace.errors import SettingsError
from workers.engine.control_groups import ROOT, control_groups

logger = logging.getLogger(__name__)

MB = 2**20


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes."""

    limit: int
    free: int


def read_memory(root: Path = ROOT) -> Memory:
    """The least of what the machine and each control group has. `root`: where proc and sys are."""
    machine = psutil.virtual_memory()
    found = [Memory(machine.total, machine.available), *_of_groups(root)]
    return Memory(min(one.limit for one in found), min(one.free for one in found))


def _of_groups(root: Path) -> Iterator[Memory]:
    for group in control_groups(root):
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            lines = (group / "memory.stat").read_text().splitlines()
            stat = {name: int(value) for name, value in (line.split() for line in lines)}
        except (OSError, ValueError):  # no such controller, or "max"
            continue
        # Pages of files are given up before anybody is killed.
        yield Memory(limit, limit - used + stat.get("inactive_file", 0) + stat.get("active_file", 0))


def check_kv_memory(wanted_mb: int, memory: Memory) -> None:
    """A cache is touched as it fills: one that is too large is made in no time, and its process killed long after.

    Raises SettingsError where it can never be had. That it is more than what is free now is only said: who is started in place of a process
    that died, or beside one, must not take that for a wrong setting.
    """
    wanted, limit, free = wanted_mb * MB, memory.limit // MB, memory.free // MB
    if wanted > memory.limit:
        raise SettingsError(f"HEADRACE_KV_MEMORY_MB={wanted_mb} is more than the {limit} MB that this process may use ({free} MB are free)")
    if wanted > memory.free:
        logger.warning(
            "HEADRACE_KV_MEMORY_MB=%d is more than the %d MB that are free now, of %d: this process may be killed as the cache fills",
            wanted_mb,
            free,
            limit,
        )
