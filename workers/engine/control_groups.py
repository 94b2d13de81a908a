"""Where the system says what a process may use (cgroup v2)."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
"""Where proc and sys are."""


def control_groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control group and of those around it, each of which may have limits."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        if line.startswith("0::/"):
            group = PurePosixPath(line[len("0::/") :])
            yield from (root / "sys/fs/cgroup" / part for part in (group, *group.parents))
