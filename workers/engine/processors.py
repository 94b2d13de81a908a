"""How many processors this process may use: those it is bound to, and no more than its control group has a quota for."""

import math
import os
from pathlib import Path

from workers.engine.control_groups import ROOT, control_groups


def count_processors(root: Path = ROOT) -> int:
    """At least 1. Of a quota of two and a half it is two: threads that wait for each other all stand still while one of them is throttled.

    `root`: where proc and sys are.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(map(_quota, control_groups(root)), default=math.inf)
    return max(1, bound if quota >= bound else int(quota))


def _quota(group: Path) -> float:
    """Of the processors' time, in processors."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):  # no such controller
        return math.inf
