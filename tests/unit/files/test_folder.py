import os
from pathlib import Path

import pytest

from headrace.errors import FileNotKnown, SettingsError
from headrace.files.folder import FolderBlobs
from headrace.ids import new_file_id


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "files")


def stored(blobs: FolderBlobs, content: bytes = b"bytes") -> str:
    scratch = blobs.scratch()
    scratch.write_bytes(content)
    blobs.publish(scratch, blob_id := new_file_id())
    return blob_id


def read(blobs: FolderBlobs, blob_id: str) -> bytes:
    with blobs.open(blob_id) as file:
        return file.read()


def test_a_blob_is_what_was_written_until_it_is_deleted(blobs: FolderBlobs) -> None:
    blob_id = stored(blobs)
    assert read(blobs, blob_id) == b"bytes"
    assert [one for one, _ in blobs.stored()] == [blob_id]
    blobs.delete(blob_id)
    blobs.delete(blob_id)
    with pytest.raises(FileNotKnown):
        blobs.open(blob_id)


def test_publishing_twice_is_publishing_once(blobs: FolderBlobs) -> None:
    scratch = blobs.scratch()
    scratch.write_bytes(b"bytes")
    blob_id = new_file_id()
    blobs.publish(scratch, blob_id)
    blobs.publish(scratch, blob_id)
    assert read(blobs, blob_id) == b"bytes"
    with pytest.raises(FileNotFoundError):
        blobs.publish(scratch, new_file_id())


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_answer(
    blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr("headrace.files.folder.sync_file", lambda path: done.append(f"bytes {path.name}"))
    monkeypatch.setattr("headrace.files.folder.sync_folder", lambda path: done.append(f"names {path.name}"))
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        done.append("rename")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    scratch = blobs.scratch()
    scratch.write_bytes(b"bytes")
    blobs.publish(scratch, new_file_id())
    assert done == [f"bytes {scratch.name}", "rename", "names blobs"]


def test_what_was_borrowed_outlives_the_blob(blobs: FolderBlobs, tmp_path: Path) -> None:
    blob_id = stored(blobs)
    blobs.borrow(blob_id, tmp_path / "mine")
    blobs.borrow(blob_id, tmp_path / "mine")
    blobs.delete(blob_id)
    assert (tmp_path / "mine").read_bytes() == b"bytes"
    with pytest.raises(FileNotKnown):
        blobs.borrow(blob_id, tmp_path / "other")


@pytest.mark.parametrize(
    "name", ["../scratch/x", "file-", "/etc/passwd", "file-" + "0" * 31, "file-" + "0" * 32 + "\n", "FILE-" + "0" * 32]
)
def test_nothing_but_an_id_is_a_name(blobs: FolderBlobs, tmp_path: Path, name: str) -> None:
    for call in (lambda: blobs.open(name), lambda: blobs.borrow(name, tmp_path / "x"), lambda: blobs.delete(name)):
        with pytest.raises(FileNotKnown):
            call()


def test_a_link_is_not_followed(blobs: FolderBlobs, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    blob_id = new_file_id()
    (tmp_path / "files" / "blobs" / blob_id).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic link"):
        blobs.open(blob_id)


def test_old_scratch_is_swept_and_young_is_not(blobs: FolderBlobs) -> None:
    old, young = blobs.scratch(), blobs.scratch()
    for scratch in (old, young):
        scratch.write_bytes(b"")
    os.utime(old, (0, 0))
    assert blobs.sweep_scratch(1_000) == 1
    assert young.exists()
    assert not old.exists()


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(SettingsError, match="/dev/null/files"):
        FolderBlobs(Path("/dev/null/files"))
