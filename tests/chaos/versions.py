"""Versions of the code, laid out beside each other: what stands in the working tree, and an earlier commit of the same repository.

Both get a store whose clock can be set: the library asks the server's clock in one place, and here that place adds an offset from a key.
The older one's library also differs by a comment, so that processes of both, as in any update, load their own text over the other's.
"""

import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("headrace", "producer_api", "workers", "scheduler")
LIBRARY = Path("headrace/queues/functions.lua")
CLOCK_OFFSET = "headrace:clock-offset"
"""Key of the microseconds by which the store's clock is wrong."""

_CLOCK = "  return time[1] * 1000000 + time[2]\n"
_SETTABLE = f"  return time[1] * 1000000 + time[2] + (redis.call('GET', '{CLOCK_OFFSET}') or 0)\n"


class NoHistory(Exception):
    """There is no earlier commit to run."""


@dataclass(frozen=True, slots=True)
class Version:
    name: str
    tree: Path
    """What belongs on PYTHONPATH."""


def this_version(folder: Path) -> Version:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    _make_clock_settable(folder, "")
    return Version("this code", folder)


def older_version(folder: Path, ref: str | None) -> Version:
    """Of the commit `ref`; None: the one that last changed the queue or the API. What was repaired there later would be found again.

    Raises NoHistory.
    """
    ref = ref or _git("log", "-1", "--format=%h", "--", "headrace/queues", "producer_api").decode().strip()
    if not ref:
        raise NoHistory("no commit has changed the queue or the API")
    with tarfile.open(fileobj=io.BytesIO(_git("archive", ref, *PACKAGES))) as archive:
        archive.extractall(folder, filter="data")
    _make_clock_settable(folder, f"-- as of {ref}\n")
    return Version(f"commit {ref}", folder)


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise NoHistory("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise NoHistory(error.stderr.decode(errors="replace").strip()) from None


def _make_clock_settable(tree: Path, remark: str) -> None:
    library = tree / LIBRARY
    text = library.read_text()
    assert text.count(_CLOCK) == 1
    library.write_text(text.replace(_CLOCK, _SETTABLE) + remark)
