import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.files.journal import Journal, Result


def result(line: int, *, answered: bool = True, data: bytes | None = None) -> Result:
    return Result(line, answered, 3, 5, data if data is not None else b'{"line":%d}' % line)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def test_an_empty_journal_has_nothing(journal: Journal) -> None:
    journal.refresh()
    assert len(journal) == 0
    assert list(journal.prefix()) == list(journal.answers()) == []
    assert 0 not in journal
    assert journal.error(0) is None


def test_results_come_back_in_the_order_of_the_input(journal: Journal) -> None:
    journal.append([result(2), result(0)])
    journal.append([result(1, answered=False), result(3)])
    assert list(journal.answers()) == [b'{"line":0}\n', b'{"line":2}\n', b'{"line":3}\n']
    assert journal.error(1) == b'{"line":1}\n'
    assert journal.error(0) is None
    assert (journal.tally.completed, journal.tally.failed, journal.tally.input_tokens, journal.tally.output_tokens) == (3, 1, 12, 20)


def test_the_prefix_ends_before_the_first_line_without_a_result(journal: Journal) -> None:
    journal.append([result(0), result(1, answered=False), result(3)])
    assert list(journal.prefix()) == [b'{"line":0}\n']
    journal.append([result(2)])
    assert list(journal.prefix()) == [b'{"line":0}\n', b'{"line":2}\n', b'{"line":3}\n']
    assert journal.prefix_bytes == sum(map(len, journal.prefix()))


def test_the_first_result_of_a_line_counts(journal: Journal) -> None:
    journal.append([result(0)])
    journal.append([result(0, data=b'{"other":1}'), result(0, answered=False)])
    assert list(journal.answers()) == [b'{"line":0}\n']
    assert len(journal) == 1


def test_a_reader_sees_what_another_writer_adds(tmp_path: Path, journal: Journal) -> None:
    other = Journal(tmp_path / "journal")
    other.append([result(0)])
    journal.refresh()
    other.append([result(1)])
    journal.append([result(2)])
    assert len(journal) == 3
    other.refresh()
    assert list(other.answers()) == list(journal.answers())


def test_a_record_may_be_longer_than_one_read(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.files.journal._READ_BYTES", 16)
    long = b'"' + b"x" * 1_000 + b'"'
    journal.append([result(0), result(1, data=long), result(2)])
    assert list(journal.answers()) == [b'{"line":0}\n', long + b"\n", b'{"line":2}\n']


def test_a_short_write_is_an_error_and_the_next_one_heals_it(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as full_disk:
        full_disk.setattr(os, "write", lambda descriptor, data: real(descriptor, data[: len(data) // 2]))
        with pytest.raises(OSError, match="bytes could be written"):
            journal.append([result(0)])
    journal.append([result(0), result(1)])
    assert len(journal) == 2


def test_a_record_that_was_altered_is_passed_over(journal: Journal, tmp_path: Path) -> None:
    journal.append([result(0), result(1)])
    path = tmp_path / "journal"
    path.write_bytes(path.read_bytes().replace(b'{"line":0}', b'{"line":7}'))
    again = Journal(path)
    again.refresh()
    assert 0 not in again
    assert list(again.answers()) == [b'{"line":1}\n']


def test_what_was_appended_is_on_the_disk(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(stat.S_IFMT(os.fstat(descriptor).st_mode)))
    journal.append([result(0)])
    assert synced == [stat.S_IFREG, stat.S_IFDIR], "the bytes, and the name of a new file"
    journal.append([result(1)])
    assert synced[2:] == [stat.S_IFREG]


@given(
    batches=st.lists(st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.binary(max_size=12)), max_size=4), max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=3),
)
def test_whatever_is_cut_off_a_crash_only_loses_what_was_not_whole(batches: list[list[tuple[int, bool, bytes]]], cuts: list[int]) -> None:
    """A writer dies in the middle of its bytes, and another goes on: what was whole before is there, and so is what comes after."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        for batch in batches:
            before = Journal(path)
            before.refresh()
            size = path.stat().st_size if path.exists() else 0
            results = [result(line, answered=answered, data=data.replace(b"\n", b"")) for line, answered, data in batch]
            Journal(path).append(results)
            if cuts and results:
                # What was acknowledged earlier is never cut: it was on the disk.
                os.truncate(path, min(path.stat().st_size, size + cuts.pop()))
            after = Journal(path)
            after.refresh()
            for line in range(13):
                assert (line in before) <= (line in after)
            known = list(before.answers())
            assert all(answer in list(after.answers()) for answer in known)
            Journal(path).append(results)
            after.refresh()
            assert all(one.line in after for one in results)
            fresh = Journal(path)
            fresh.refresh()
            assert list(fresh.answers()) == list(after.answers())
            assert fresh.tally == after.tally
