"""Blobs as files of one folder. Several processes share it; on several machines it lies on a disk they share."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from headrace.errors import FileNotKnown, SettingsError
from headrace.files.sync import sync_file, sync_folder
from headrace.ids import FILE_ID


class FolderBlobs:
    """Implements BlobStore. A file appears under its id by a rename, after its bytes are on the disk."""

    def __init__(self, root: Path) -> None:
        """`root` is created where it is missing, for its owner alone. Raises SettingsError if that fails."""
        self._blobs = root / "blobs"
        self._scratch = root / "scratch"
        try:
            for folder in (root, self._blobs, self._scratch):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"cannot create the folder of files {root} ({error.strerror}): set HEADRACE_FILES_DIR") from None

    def scratch(self) -> Path:
        return self._scratch / secrets.token_hex(16)

    def publish(self, scratch: Path, blob_id: str) -> None:
        target = self._path(blob_id)
        try:
            sync_file(scratch)
            scratch.rename(target)
        except FileNotFoundError:
            if not target.exists():
                raise
        sync_folder(self._blobs)

    def open(self, blob_id: str) -> BinaryIO:
        try:
            descriptor = os.open(self._path(blob_id), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise _not_known(blob_id) from None
        return os.fdopen(descriptor, "rb")

    def borrow(self, blob_id: str, path: Path) -> None:
        # A second name for the same bytes: deleting the blob takes away the first one only.
        try:
            os.link(self._path(blob_id), path, follow_symlinks=False)
        except FileExistsError:
            return
        except FileNotFoundError:
            raise _not_known(blob_id) from None
        sync_folder(path.parent)

    def delete(self, blob_id: str) -> None:
        self._path(blob_id).unlink(missing_ok=True)

    def stored(self) -> Iterator[tuple[str, float]]:
        return ((entry.name, age) for entry, age in _aged(self._blobs))

    def sweep_scratch(self, older_than_s: float) -> int:
        old = [entry for entry, age in _aged(self._scratch) if age > older_than_s]
        for entry in old:
            Path(entry.path).unlink(missing_ok=True)
        return len(old)

    def _path(self, blob_id: str) -> Path:
        """Raises FileNotKnown for anything but an id: no caller's text ever becomes a path."""
        if not FILE_ID.fullmatch(blob_id):
            raise _not_known(blob_id)
        return self._blobs / blob_id


def _aged(folder: Path) -> Iterator[tuple["os.DirEntry[str]", float]]:
    now = time.time()
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # published or deleted meanwhile
                yield entry, now - entry.stat(follow_symlinks=False).st_mtime


def _not_known(blob_id: str) -> FileNotKnown:
    return FileNotKnown(f"No file has the id {blob_id[:80]!r}.", param="file_id")
