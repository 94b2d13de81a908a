"""From a validation error to one sentence that names the field, the limit and the value."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
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
#: What is meant by a value that other servers take, by field and kind of error.
_HINTS = {
    ("top_k", "greater_than_equal"): "; 0 is off",
    ("logprobs", "bool_type"): "; the number goes into 'top_logprobs'",
    ("logprobs", "int_type"): "; it is the number of alternatives",
}
_NEAR = 0.75
_SHOWN_NAME = 64
_OUR_CODES = frozenset({"unsupported_parameter", "unknown_parameter", "invalid_value", "invalid_type"})


def explain(error: ValidationError, *, known: Collection[str] = (), elsewhere: Mapping[str, str] | None = None) -> InvalidRequest:
    """The first problem, as the error to raise. `known` are the body's fields, `elsewhere` those of other bodies with the paths that take
    them: a field that is unknown may be meant for one of them."""
    first = error.errors(include_url=False)[0]
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    loc = (*first["loc"], context["name"]) if kind == UNKNOWN_FIELD else first["loc"]
    param = _path(loc)
    if kind == "missing":
        return InvalidRequest(f"'{param}' is required.", param=param, code="missing_required_parameter")
    if kind in ("extra_forbidden", UNKNOWN_FIELD):
        meant = _meant(param, known, elsewhere or {}) if len(loc) == 1 else ""
        return InvalidRequest(f"Unknown parameter: '{param}'.{meant}", param=param, code="unknown_parameter")
    if kind in _OUR_CODES:
        return InvalidRequest(f"'{param}' {first['msg']}", param=param, code=kind)
    hint = _HINTS.get((param, kind), "")
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        limit = str(context[key]).removesuffix(".0")
        return InvalidRequest(f"'{param}' must be {words} {limit}, got {_short(value)}{hint}.", param=param)
    if kind in _TYPES:
        return InvalidRequest(f"'{param}' must be {_TYPES[kind]}, got {json_type(value)}{hint}.", param=param, code="invalid_type")
    if kind in ("too_short", "string_too_short"):
        return InvalidRequest(f"'{param}' must not be empty.", param=param)
    return InvalidRequest(f"'{param}': {first['msg']}.", param=param)


def _meant(name: str, known: Collection[str], elsewhere: Mapping[str, str]) -> str:
    if name in elsewhere:
        return f" It is a field of {elsewhere[name]}."
    near = get_close_matches(name.lower(), known, 1, _NEAR)
    return f" Did you mean '{near[0]}'?" if near else ""


def _path(loc: tuple[int | str, ...]) -> str:
    """("messages", 0, "role") → messages[0].role. Names come from the caller: they are shortened."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:_SHOWN_NAME]}" if path else part[:_SHOWN_NAME]
    return path


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:40] + "…"
