"""JSON objects from callers: parse, fingerprint, and name what was found instead."""

import hashlib
from typing import Any

import orjson

from headrace.errors import InvalidRequest

_MAX_DEPTH = 254
"""orjson's, when it writes."""


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object. orjson refuses what would hurt later: NaN, overflowing floats, lone surrogates, a BOM, nesting beyond 1,024.

    Raises InvalidRequest.
    """
    if not raw:
        raise InvalidRequest("The body is empty; a JSON object is required.", code="invalid_json")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}).", code="invalid_json"
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object, got {json_type(value)}.", code="invalid_json")
    return value


def fingerprint(path: str, body: dict[str, Any]) -> str:
    """Hex digest that is equal for equal requests: same endpoint, same parsed body, whatever the spacing and order of keys.

    Raises InvalidRequest for a body that is nested too deeply: orjson reads four times as deep as it writes.
    """
    try:
        canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        raise InvalidRequest(f"The body is nested too deeply: at most {_MAX_DEPTH} levels are read.", code="invalid_json") from None
    return hashlib.sha256(path.encode() + b"\0" + canonical).hexdigest()


def json_type(value: Any) -> str:
    """The type of a parsed value in JSON's words, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
