from pathlib import Path

import pytest

from headrace.cli.batch_note import NoteFile, Order, read_note
from headrace.errors import HeadraceError
from headrace.request import Endpoint

ORDER = Order(
    input_sha256="00", endpoint=Endpoint.CHAT, model=None, max_tokens=5, temperature=0.1, url="http://127.0.0.1:8000", data_dir=None
)


def test_what_is_noted_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "out.batch.json"
    assert read_note(path) is None
    notes = NoteFile.begin(path, ORDER)
    assert read_note(path) == notes.note
    notes.add(input_file_id="file-1")
    notes.add(batch_id="batch_1")
    assert read_note(path) == notes.note
    assert (notes.note.order, notes.note.input_file_id, notes.note.batch_id) == (ORDER, "file-1", "batch_1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.batch.json"]


def test_two_runs_have_two_keys(tmp_path: Path) -> None:
    assert len({NoteFile.begin(tmp_path / "note", ORDER).note.key for _ in range(3)}) == 3


@pytest.mark.parametrize("content", ["", "{}", "null", '{"v": 2}', "\udc80"])
def test_a_note_that_says_nothing_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "note"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(HeadraceError, match="--restart forgets it"):
        read_note(path)


def test_a_note_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="cannot write "):
        NoteFile.begin(tmp_path / "nowhere" / "note", ORDER)


def test_what_differs_is_named() -> None:
    own = ORDER.model_copy(update={"url": None, "data_dir": "/data"})
    assert ORDER.differences(ORDER) == []
    assert ORDER.differences(ORDER.model_copy(update={"input_sha256": "01", "max_tokens": None})) == ["the input", "--max-tokens (then 5)"]
    assert ORDER.differences(own) == ["the server (then http://127.0.0.1:8000)"]
    assert own.differences(ORDER) == ["the server (then one of its own)"]
    assert own.differences(own.model_copy(update={"data_dir": None})) == ["--data-dir (then /data)"]
    assert own.model_copy(update={"model": "m", "temperature": None}).differences(own) == [
        "--model (then m)",
        "--temperature (then not given)",
    ]
