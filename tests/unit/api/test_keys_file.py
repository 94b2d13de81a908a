import logging
from pathlib import Path

import pytest

from headrace.errors import SettingsError
from headrace.keys import key_line
from headrace.keys_file import LOOK_S, KeysFile
from headrace.testing.builders import ManualClock

ALICE, BOB = key_line("hr_a", "alice"), key_line("hr_b", "bob")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{ALICE}\n{BOB}\n")
    return path


@pytest.fixture
def clock() -> ManualClock:
    """Here its milliseconds are seconds."""
    return ManualClock(0)


@pytest.fixture
def keys(path: Path, clock: ManualClock) -> KeysFile:
    return KeysFile(path, clock)


def who(keys: KeysFile) -> list[str | None]:
    return [keys.tenant_of("hr_a"), keys.tenant_of("hr_b")]


def test_a_key_that_is_taken_out_is_refused_at_the_next_look(path: Path, keys: KeysFile, clock: ManualClock) -> None:
    path.write_text(f"{BOB}\n")
    assert who(keys) == ["alice", "bob"]
    clock.advance(int(LOOK_S))
    assert who(keys) == [None, "bob"]


def test_a_file_that_is_replaced_is_read_too(path: Path, keys: KeysFile, clock: ManualClock) -> None:
    other = path.with_name("other")
    other.write_text(f"{ALICE.replace('alice', 'carol')}\n{BOB}\n")
    other.rename(path)
    clock.advance(1)
    assert who(keys) == ["carol", "bob"]


def test_the_tenants_that_came_and_went_are_told(path: Path, keys: KeysFile, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path.write_text(f"{BOB}\n{key_line('hr_c', 'carol')}\n{key_line('hr_d', 'dave')}\n")
    clock.advance(1)
    who(keys)
    path.write_text(f"{key_line('hr_e', 'bob')}\n{key_line('hr_c', 'carol')}\n{key_line('hr_d', 'dave')}\n\n")
    clock.advance(1)
    assert who(keys) == [None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "keys read again, count=3 tenants added=carol,dave removed=alice",
        "keys read again, count=3 tenants added=- removed=-",
    ]


@pytest.mark.parametrize("broken", [None, "", "nonsense", f"{BOB}\nhr_secret"])
def test_a_broken_file_changes_nothing_until_it_is_mended(
    path: Path, keys: KeysFile, clock: ManualClock, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path.unlink() if broken is None else path.write_text(broken)
    for _ in range(3):
        clock.advance(1)
        assert who(keys) == ["alice", "bob"]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "hr_secret" not in record.getMessage()
    path.write_text(f"{BOB}\n\n")
    clock.advance(1)
    assert who(keys) == [None, "bob"]


def test_a_broken_file_refuses_to_start(path: Path) -> None:
    path.write_text("x")
    with pytest.raises(SettingsError, match="line 1"):
        KeysFile(path)
