import fcntl
import os
import shutil
from pathlib import Path

import pytest

from headrace.cli import batch_files
from headrace.cli.batch_files import BatchFiles
from headrace.errors import HeadraceError

READ_NS = 1_700_000_000_000_000_000


def test_names(tmp_path: Path) -> None:
    files = BatchFiles(tmp_path / "answers.jsonl")
    assert files.errors.name == "answers.errors.jsonl"
    assert files.note.name == "answers.jsonl.batch.json"
    assert files.data_dir.name == "answers.jsonl.headrace"
    assert BatchFiles(tmp_path / "answers").errors.name == "answers.errors"


def test_the_lock_leaves_nothing_behind_without_a_note(tmp_path: Path) -> None:
    files = BatchFiles(tmp_path / "out")
    with files.lock(pytest.fail):
        assert files.part.exists()
    assert list(tmp_path.iterdir()) == []


def test_with_a_note_the_lock_outlives_the_run(tmp_path: Path) -> None:
    """As it must while the server that has inherited it is still stopping."""
    files = BatchFiles(tmp_path / "out")
    files.note.touch()
    with files.lock(pytest.fail) as lock:
        inherited = os.dup(lock)
    said: list[str] = []

    def stop_it(message: str) -> None:
        said.append(message)
        os.close(inherited)

    with files.lock(stop_it):
        assert len(said) == 1


def test_the_lock_is_not_taken_on_a_file_that_has_gone(tmp_path: Path) -> None:
    """The run that held it has renamed it to its output: a lock on that would keep nobody out."""
    files = BatchFiles(tmp_path / "out")
    files.note.touch()
    with files.lock(pytest.fail):
        waiting = os.open(files.part, os.O_RDWR)
        files.part.rename(files.out)
    fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with files.lock(pytest.fail) as lock:
        assert os.path.samestat(os.fstat(lock), files.part.stat())
    os.close(waiting)


def test_a_run_that_goes_on_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_files, "STOPPING_S", 0.0)
    files = BatchFiles(tmp_path / "out")
    with files.lock(pytest.fail), pytest.raises(HeadraceError, match="another `headrace batch run` writes"), files.lock(lambda _: None):
        pass


def test_publish_puts_both_files_in_place(tmp_path: Path) -> None:
    files = BatchFiles(tmp_path / "out.jsonl")
    files.out.write_text("old")
    files.part.write_text("answers\n")
    files.errors_part.write_text("errors\n")
    files.publish(READ_NS)
    assert (files.out.read_text(), files.errors.read_text()) == ("answers\n", "errors\n")
    assert files.out.stat().st_mtime_ns == READ_NS
    files.part.write_text("")
    files.errors_part.write_text("")
    files.publish(READ_NS)
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl"}, "no errors, no file of errors"


def test_only_what_a_server_has_put_there_is_removed(tmp_path: Path) -> None:
    files = BatchFiles(tmp_path / "out.jsonl")
    for name in ("valkey", "logs", "files"):
        (files.data_dir / name).mkdir(parents=True)
    files.note.touch()
    files.forget()
    assert list(tmp_path.iterdir()) == []

    (files.data_dir / "thesis").mkdir(parents=True)
    files.note.touch()
    files.forget()
    assert (files.note.exists(), (files.data_dir / "thesis").exists()) == (False, True)


def test_forgetting_that_was_cut_short_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = BatchFiles(tmp_path / "out.jsonl")
    (files.data_dir / "valkey").mkdir(parents=True)
    files.note.touch()

    def fail(_path: Path) -> None:
        raise PermissionError(13, "Permission denied", "valkey")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", fail)
        with pytest.raises(HeadraceError, match="cannot remove valkey"):
            files.forget()
    assert files.note.exists(), "it goes last"
    files.forget()
    assert list(tmp_path.iterdir()) == []
