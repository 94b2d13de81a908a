"""Versions of the code, laid out beside each other: what stands in the working tree, and an earlier commit of the same repository.

Both get a store whose clock can be set: each library asks the server's clock in one place, and here that place adds an offset from a key.
The older one's libraries also differ by a comment, so that processes of both, as in any update, load their own text over the other's.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("headrace", "producer_api", "workers", "scheduler")
LIBRARY = Path("headrace/queues/functions.lua")
LIBRARIES = (LIBRARY, Path("headrace/registries/functions.lua"))
SHARED = ("headrace/queues/*.lua", "headrace/request.py")
"""What processes of two versions meet in: the functions in the store, and the record of a request."""
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
    old: bool = False


def this_version(folder: Path) -> Version:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    _make_clock_settable(folder, "")
    return Version("this code", folder)


def older_version(folder: Path, ref: str | None) -> Version:
    """Of the commit `ref`; None: the last one whose functions or records were others. What was repaired since then would be found again.

    Raises NoHistory, also if that commit's functions and records are those of the working tree.
    """
    chosen = ref or _before_the_last_change()
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "--extract", "--directory", folder], input=_git("archive", chosen, *PACKAGES), check=True)
    if ref is None and shared_text(folder) == shared_text(ROOT):
        raise NoHistory(f"commit {chosen} has the functions and the records of the working tree: nothing to be compatible with")
    _make_clock_settable(folder, f"-- as of {chosen}\n")
    return Version(f"commit {chosen}", folder, old=True)


def shared_text(tree: Path) -> dict[Path, str]:
    return {path.relative_to(tree): path.read_text() for pattern in SHARED for path in tree.glob(pattern)}


def _before_the_last_change() -> str:
    # First parents only: the other side of a merge branched off long ago, and lacks what was repaired here meanwhile. Not every change that
    # the log tells is one: a merge may bring what the tree had already.
    for change in _git("log", "--first-parent", "--format=%h", "--", *SHARED).decode().split():
        before = _git("rev-parse", "--short", "--verify", f"{change}^").decode().strip()
        if _git("diff", "--name-only", before, "--", *SHARED):
            return before
    raise NoHistory(f"no commit has changed {' or '.join(SHARED)}")


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise NoHistory("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise NoHistory(error.stderr.decode(errors="replace").strip()) from None


def _make_clock_settable(tree: Path, remark: str) -> None:
    for library in LIBRARIES:
        text = (tree / library).read_text()
        assert text.count(_CLOCK) == 1
        (tree / library).write_text(text.replace(_CLOCK, _SETTABLE) + remark)
