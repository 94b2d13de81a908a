"""`headrace settings`: every setting, its default and what it does, as the Markdown table of docs/settings.md or for a terminal."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import annotated_types

from headrace.settings import PREFIX, Settings

_LINK = re.compile(r"\[[^\]]*\]\(([^)]*)\)")
_NONE = "–"
#: Defaults that depend on the machine, in words.
_COMPUTED = {"cache_dir": "`~/.cache/headrace`", "worker_name": "the host's name"}


def settings_table() -> str:
    """Markdown; docs/settings.md has it."""
    rows = (f"| `{row.variable}` | {row.default} | {row.allowed} | {row.does} |" for row in _rows())
    return "\n".join(["| variable | default | allowed | what it does |", "|---|---|---|---|", *rows])


def settings_list(width: int) -> str:
    """For people: no line is wider, as far as words go. Links of the documentation are files of it."""
    parts = []
    for row in _rows():
        default = "no default" if row.default == _NONE else f"default {row.default}"
        about = f"{row.allowed}; {default}. " + _LINK.sub(r"docs/\1", row.does)
        wrapped = textwrap.wrap(about, width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
        parts.append("\n".join([row.variable, *wrapped]))
    return "\n\n".join(parts)


class _Row(NamedTuple):
    variable: str
    default: str
    allowed: str
    does: str


def _rows() -> Iterator[_Row]:
    for name, info in Settings.model_fields.items():
        default = _COMPUTED.get(name) or _shown(info.get_default())
        yield _Row(PREFIX + name.upper(), default, _allowed(info.annotation, info.metadata), info.description or "")


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return _NONE if default is None else f"`{default}`"


def _allowed(annotation: Any, metadata: list[Any]) -> str:
    choices = [choice for choice in getattr(annotation, "__args__", ()) if choice is not NoneType]
    if annotation is bool:
        return "`true`, `false`"
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    bounds = [_bound(constraint) for constraint in metadata]
    [annotation] = choices or [annotation]
    kind = {int: "integer", float: "number", Path: "path"}.get(annotation, "text")
    return " ".join([kind, *bounds])


def _bound(constraint: Any) -> str:
    match constraint:
        case annotated_types.Ge(ge=bound):
            return f"≥ {bound}"
        case annotated_types.Gt(gt=bound):
            return f"> {bound}"
        case annotated_types.Le(le=bound):
            return f"≤ {bound}"
        case annotated_types.MultipleOf(multiple_of=factor):
            return f"multiple of {factor}"
        case _ if hasattr(constraint, "pattern"):
            return f"`{constraint.pattern}`"
        case _:
            raise TypeError(f"no words for {constraint!r}")
