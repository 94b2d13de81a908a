"""Where a batch's working files lie until it ends: its input, the index of the input's lines, and the journal of results."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from headrace.files.sync import sync_folder
from headrace.ids import BATCH_ID


class Workspace:
    """The folder of one batch under `root` (the settings' `files_dir`)."""

    def __init__(self, root: Path, batch_id: str) -> None:
        if not BATCH_ID.fullmatch(batch_id):
            raise ValueError(f"batch_id must be a batch's id, got {batch_id[:40]!r}")
        self.folder = root / "batches" / batch_id

    @property
    def input(self) -> Path:
        return self.folder / "input"

    @property
    def index(self) -> Path:
        return self.folder / "index"

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def create(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for parent in (self.folder.parent, self.folder.parent.parent):
            sync_folder(parent)

    def remove(self) -> None:
        """No error if it is gone, or going."""
        shutil.rmtree(self.folder, ignore_errors=True)


def workspaces(root: Path) -> Iterator[str]:
    """Ids of the batches that have a folder."""
    folder = root / "batches"
    if folder.is_dir():
        yield from (name for name in os.listdir(folder) if BATCH_ID.fullmatch(name))
