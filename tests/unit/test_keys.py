import hashlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import SettingsError
from headrace.keys import Keys, is_key, is_tenant, key_line, new_key, parse_keys, reaches_others, read_keys

ALICE, BOB = "hr_alice", "hr_bob"
GOOD = key_line(ALICE, "alice")


def test_a_new_key_has_256_bits_and_is_made_once() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(is_key(key) and len(key) == len("hr_") + 43 for key in keys)


def test_a_line_holds_the_hash_alone() -> None:
    assert key_line(ALICE, "alice") == f"{hashlib.sha256(ALICE.encode()).hexdigest()} alice"


def test_a_file_with_everything_that_is_allowed() -> None:
    text = f"# who\r\n\r\n  {GOOD.upper().replace('ALICE', 'alice')}\r\n\n{key_line(BOB, 'bob')}\n   # the end\n{key_line('hr_2', 'alice')}"
    keys = Keys(parse_keys(text))
    assert len(keys) == 3
    assert [keys.tenant_of(key) for key in (ALICE, BOB, "hr_2")] == ["alice", "bob", "alice"]


@pytest.mark.parametrize("key", ["", "hr_alic", "hr_alice ", "HR_ALICE", "alice", hashlib.sha256(ALICE.encode()).hexdigest()])
def test_other_keys_are_nobodys(key: str) -> None:
    assert Keys(parse_keys(GOOD)).tenant_of(key) is None


@pytest.mark.parametrize(
    "line",
    [
        "hr_supersecret",
        "hr_supersecret alice",
        GOOD[1:],
        GOOD.split()[0],
        GOOD.replace(" ", ""),
        f"{GOOD} supersecret",
        f"x{GOOD}",
        key_line(ALICE, "super/secret"),
        key_line(ALICE, "-supersecret"),
        key_line(ALICE, "supersecret" * 6),
        key_line(ALICE, "supersecrét"),
    ],
)
def test_a_malformed_line_is_named_and_not_shown(line: str) -> None:
    with pytest.raises(ValueError, match=r"^line 3") as caught:
        parse_keys(f"# first\n{key_line(BOB, 'bob')}\n{line}\n")
    assert "supersecret" not in str(caught.value)
    assert GOOD.split()[0][:8] not in str(caught.value)


def test_a_key_of_two_tenants_is_refused() -> None:
    with pytest.raises(ValueError, match="line 4 has the same key as line 1"):
        parse_keys(f"{GOOD}\n\n#\n{key_line(ALICE, 'bob')}")


@pytest.mark.parametrize("text", ["", "\n\n", "# nobody\n"])
def test_a_file_without_a_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="holds no key"):
        parse_keys(text)


@given(st.text(alphabet="0123456789abcdefABCDEF# \t\r\n\x00\x85\u2028é", max_size=300))
def test_whatever_a_file_holds_it_is_read_or_a_line_is_named(text: str) -> None:
    with suppress(ValueError):
        assert all(len(digest) == 32 and is_tenant(tenant) for digest, tenant in parse_keys(text).items())


def test_what_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(SettingsError, match=r"keys cannot be read \(No such file"):
        read_keys(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="keys is not UTF-8"):
        read_keys(path)
    path.write_text("x")
    with pytest.raises(SettingsError, match="keys: line 1 must be"):
        read_keys(path)
    path.write_text(f"\ufeff{GOOD}")
    assert read_keys(path).tenant_of(ALICE) == "alice"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_loopback_is_ones_own(host: str) -> None:
    assert not reaches_others(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "api.example"])
def test_the_rest_is_not(host: str) -> None:
    assert reaches_others(host)
