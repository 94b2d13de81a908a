"""`headrace settings`: every setting, its default and what it does, as the Markdown table of docs/settings.md."""

from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import annotated_types

from headrace.settings import PREFIX, Settings

#: Defaults that depend on the machine, in words.
_COMPUTED = {"cache_dir": "`~/.cache/headrace`", "worker_name": "the host's name"}


def settings_table() -> str:
    return "\n".join(["| variable | default | allowed | what it does |", "|---|---|---|---|", *_rows()])


def _rows() -> Iterator[str]:
    for name, info in Settings.model_fields.items():
        default = _COMPUTED.get(name) or _shown(info.get_default())
        yield f"| `{PREFIX}{name.upper()}` | {default} | {_allowed(info.annotation, info.metadata)} | {info.description} |"


def _shown(default: Any) -> str:
    return "–" if default is None else f"`{default}`"


def _allowed(annotation: Any, metadata: list[Any]) -> str:
    choices = [choice for choice in getattr(annotation, "__args__", ()) if choice is not NoneType]
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
