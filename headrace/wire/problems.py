"""From a validation error to one sentence that names the field, the limit and the value."""

from typing import Any

from pydantic import ValidationError

from headrace.errors import InvalidRequest
from headrace.wire.fields import UNKNOWN_FIELD
from headrace.wire.json_object import json_type

_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("greater than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_TYPES = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_OUR_CODES = frozenset({"unsupported_parameter", "unknown_parameter", "invalid_value", "invalid_type"})


def explain(error: ValidationError) -> InvalidRequest:
    """The first problem, as the error to raise."""
    first = error.errors(include_url=False)[0]
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    param = _path(first["loc"])
    if kind == "missing":
        return InvalidRequest(f"'{param}' is required.", param=param, code="missing_required_parameter")
    if kind == UNKNOWN_FIELD:
        param = _path((*first["loc"], context["name"]))
    if kind in ("extra_forbidden", UNKNOWN_FIELD):
        return InvalidRequest(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    if kind in _OUR_CODES:
        return InvalidRequest(f"'{param}' {first['msg']}", param=param, code=kind)
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return InvalidRequest(f"'{param}' must be {words} {str(context[key]).removesuffix('.0')}, got {_short(value)}.", param=param)
    if kind in _TYPES:
        return InvalidRequest(f"'{param}' must be {_TYPES[kind]}, got {json_type(value)}.", param=param, code="invalid_type")
    if kind in ("too_short", "string_too_short"):
        return InvalidRequest(f"'{param}' must not be empty.", param=param)
    return InvalidRequest(f"'{param}': {first['msg']}.", param=param)


def _path(loc: tuple[int | str, ...]) -> str:
    """("messages", 0, "role") → messages[0].role. Names come from the caller: they are shortened."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:64]}" if path else part[:64]
    return path


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:40] + "…"
