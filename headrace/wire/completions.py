"""Body of POST /v1/completions."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from headrace.errors import InvalidRequest
from headrace.request import MAX_TOP_LOGPROBS
from headrace.wire.fields import only, wrong
from headrace.wire.generation import Generation
from headrace.wire.json_object import json_type

_SHAPES = "must be a string or an array of token ids"


def _prompt(value: Any) -> str | tuple[int, ...]:
    """One prompt, as text or as token ids, alone or in an array of one."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        if len(value) > 1:
            raise wrong("unsupported_parameter", f"must hold one prompt, got {len(value)}; send one request for each.")
        value = value[0]
    if isinstance(value, list):
        for index, token in enumerate(value):
            if type(token) is not int:  # bool is a subclass of int
                raise wrong("invalid_type", f"{_SHAPES}, but element [{index}] is {json_type(token)}.")
    elif not isinstance(value, str):
        raise wrong("invalid_type", f"{_SHAPES}, got {json_type(value)}.")
    if not value:
        raise wrong("invalid_value", "must not be empty.")
    return value if isinstance(value, str) else tuple(value)


class CompletionBody(Generation):
    prompt: Annotated[str | tuple[int, ...], BeforeValidator(_prompt, json_schema_input_type=str | list[str] | list[int] | list[list[int]])]

    best_of: Annotated[int, Field(ge=1)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    suffix: Annotated[Any, only("")] = None

    @property
    def told_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def echoes(self) -> bool:
        return bool(self.echo)

    def check(self) -> None:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise InvalidRequest(
                f"'best_of' ({self.best_of}) is only supported equal to 'n' ({self.n or 1}): all that is generated is answered.",
                param="best_of",
                code="unsupported_parameter",
            )
