from pathlib import Path

from headrace.files.journal import Journal, Result
from headrace.files.journals import Journals


def write(path: Path, *lines: int) -> None:
    Journal(path).append([Result(line, True, 1, 1, b'{"line":%d}' % line) for line in lines])


def test_a_second_look_takes_in_what_is_new(tmp_path: Path) -> None:
    journals, path = Journals(), tmp_path / "journal"
    assert len(journals.latest(path)) == 0
    write(path, 0)
    first = journals.latest(path)
    reading = first.prefix()
    assert next(reading) == b'{"line":0}\n'
    write(path, 1)
    again = journals.latest(path)
    assert again is first
    assert list(again.prefix()) == [b'{"line":0}\n', b'{"line":1}\n']
    assert list(reading) == []


def test_what_was_read_long_ago_is_read_anew(tmp_path: Path) -> None:
    journals, path = Journals(), tmp_path / "journal"
    write(path, 0)
    first = journals.latest(path)
    for number in range(100):
        journals.latest(tmp_path / str(number))
    again = journals.latest(path)
    assert again is not first
    assert list(again.prefix()) == [b'{"line":0}\n']
