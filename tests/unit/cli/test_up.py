import pytest

from headrace.cli.up import address_of


@pytest.mark.parametrize(
    ("redis_url", "address"),
    [
        ("redis://:secret@store:6380/0", "store:6380"),
        ("rediss://me:secret@store", "store:6379"),
        ("redis://127.0.0.1:9/0?password=secret", "127.0.0.1:9"),
        ("unix:///run/store.sock?password=secret", "/run/store.sock"),
        ("redis://:sec/ret@store", "--redis-url"),
    ],
)
def test_an_address_tells_no_password(redis_url: str, address: str) -> None:
    assert address_of(redis_url) == address
