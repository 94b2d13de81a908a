from typing import Any

import pytest

from headrace.errors import InvalidRequest
from headrace.wire.json_object import fingerprint, parse_object


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a": ' + b"9" * 5_000 + b"}",
        b"[" * 100_000,
        b'{"a": ' * 5_000 + b"1" + b"}" * 5_000,
    ],
)
def test_hostile_bodies_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_object(raw)
    assert caught.value.code == "invalid_json"
    assert len(caught.value.message) < 200


def test_fingerprint_ignores_spacing_and_order() -> None:
    spaced, ordered = parse_object(b'{ "b": [1, 2.0],"a" : "x" }'), parse_object(b'{"a":"x","b":[1,2.0]}')
    assert fingerprint("/v1/jobs", spaced) == fingerprint("/v1/jobs", ordered)


def test_fingerprint_tells_endpoints_and_bodies_apart() -> None:
    body = {"a": 1}
    assert fingerprint("/v1/jobs", body) != fingerprint("/v1/completions", body)
    assert fingerprint("/v1/jobs", body) != fingerprint("/v1/jobs", {"a": 2})
    assert fingerprint("/v1/jobs", body) != fingerprint("/v1/jobs", {"a": True})


@pytest.mark.parametrize(("opening", "closing"), [('{"a":', "}"), ("[", "]")])
def test_what_can_be_parsed_has_a_fingerprint_or_is_nested_too_deeply(opening: str, closing: str) -> None:
    def nested(depth: int) -> dict[str, Any]:
        return parse_object(f'{{"a":{opening * (depth - 1)}1{closing * (depth - 1)}}}'.encode())

    assert fingerprint("/v1/jobs", nested(254))
    for depth in (255, 1_000):
        with pytest.raises(InvalidRequest, match="at most 254 levels") as caught:
            fingerprint("/v1/jobs", nested(depth))
        assert caught.value.code == "invalid_json"
