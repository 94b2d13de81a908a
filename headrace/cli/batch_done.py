"""Whether an output that is there answers an input already: a run must neither repeat what is done nor replace what it has not made.

A custom_id that a run makes up is the line's number and says nothing of the prompt. So the output must be younger than the input, as for
`make`; `BatchFiles.publish` dates it to when the input was read, so that an edit during a run counts.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson

from headrace.cli.batch_files import BatchFiles
from headrace.cli.batch_input import LONGEST_LINE, Fill, Survey, normalised
from headrace.request import Endpoint

_NOT_RUN = frozenset({"batch_cancelled", "batch_expired"})


def answered(files: BatchFiles, source: BinaryIO, surveyed: Survey) -> tuple[int, int] | None:
    """How many lines of the input are in the output, and in the file of errors; None unless each is in one of them."""
    # The copy of a pipe is younger than any output: nothing tells whether the same came through it before.
    if not files.out.is_file() or os.fstat(source.fileno()).st_ctime_ns > files.out.stat().st_mtime_ns:
        return None
    done, failed = list(_results(files.out)), list(_results(files.errors))
    fill = Fill(endpoint=surveyed.endpoint or Endpoint.CHAT, model="")
    asked = [_id_of(line) for line in normalised(source, surveyed.jsonl, fill) if line.strip()]
    if None in asked or Counter(asked) != Counter([*done, *failed]):
        return None
    return len(done), len(failed)


def _results(path: Path) -> Iterator[str | None]:
    """The custom_id of each line; None for one that is no result, or says that its request was not run."""
    if path.exists():
        with path.open("rb") as file:
            while line := file.readline(LONGEST_LINE):
                yield _id_of(line)


def _id_of(line: bytes) -> str | None:
    try:
        parsed = orjson.loads(line)
        not_run = (parsed.get("error") or {}).get("code") in _NOT_RUN
        return None if not_run else str(parsed["custom_id"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
