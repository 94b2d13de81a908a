"""Body of POST /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, WithJsonSchema

from headrace.errors import InvalidRequest
from headrace.request import MAX_TOP_LOGPROBS
from headrace.wire.fields import Strict, few_pairs, metadata_pairs, one_of, only, wrong
from headrace.wire.generation import Generation
from headrace.wire.json_object import json_type

_SHAPES = "must be a string or an array of text parts"
_ROLES = ("system", "developer", "user", "assistant")


def _role(role: str) -> str:
    if role in ("tool", "function"):
        raise wrong("unsupported_parameter", f"must not be {role!r}: the served models call no tools.")
    one_of(*_ROLES)(role)
    # `developer` is what newer OpenAI models call the system prompt; chat templates know one name.
    return "system" if role == "developer" else role


def _content(value: Any) -> str:
    """A string, or the concatenation of text parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise wrong(
            "invalid_type", f"must be a string or an array of text parts, got {json_type(value) if value != [] else 'an empty array'}."
        )
    return "".join(_text_part(index, part) for index, part in enumerate(value))


def _text_part(index: int, part: Any) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise wrong("invalid_type", f"{_SHAPES}, but part [{index}] has no 'type'.")
    if part["type"] != "text":
        raise wrong("unsupported_parameter", f"must be text: part [{index}] of type {part['type'][:40]!r} is not supported.")
    if not isinstance(part.get("text"), str):
        raise wrong("invalid_type", f"{_SHAPES}, but 'text' of part [{index}] is {json_type(part.get('text'))}.")
    if extra := part.keys() - {"type", "text"}:
        raise wrong("unknown_parameter", f"has an unknown field {min(extra)[:40]!r} in part [{index}].")
    return str(part["text"])


# For the OpenAPI document alone: `_content` reads parts, as it can say better what is wrong with them.
class TextPart(Strict):
    type: Literal["text"]
    text: str


class Message(Strict):
    role: Annotated[str, AfterValidator(_role), WithJsonSchema({"enum": list(_ROLES)})]
    content: Annotated[str, BeforeValidator(_content, json_schema_input_type=str | list[TextPart])]
    name: str | None = None
    """Accepted and without effect: chat templates do not show it to the model."""

    # An earlier answer that is sent back whole carries these, empty.
    refusal: Annotated[Any, only()] = None
    annotations: Annotated[Any, only([])] = None
    audio: Annotated[Any, only()] = None
    function_call: Annotated[Any, only()] = None
    tool_calls: Annotated[Any, only([])] = None
    tool_call_id: Annotated[Any, only()] = None


class ChatBody(Generation):
    # Without FailFast each of a million wrong ones is reported, to gigabytes, for the sake of the first.
    messages: Annotated[list[Message], FailFast(), Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: Annotated[Any, only({"type": "text"})] = None
    modalities: Annotated[Any, only(["text"])] = None
    tools: Annotated[Any, only([])] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    audio: Annotated[Any, only()] = None
    prediction: Annotated[Any, only()] = None
    web_search_options: Annotated[Any, only()] = None
    moderation: Annotated[Any, only()] = None

    # Accepted and without effect.
    metadata: Annotated[dict[str, str] | None, BeforeValidator(few_pairs), AfterValidator(metadata_pairs)] = None
    store: bool | None = None
    service_tier: str | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None

    @property
    def token_limit(self) -> int | None:
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise InvalidRequest(
                f"'max_tokens' ({old}) and 'max_completion_tokens' ({new}) mean the same and differ; send one.", param="max_tokens"
            )
        return old if new is None else new

    @property
    def told_logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None

    def check(self) -> None:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(f"'top_logprobs' ({self.top_logprobs}) is only allowed when 'logprobs' is true.", param="top_logprobs")
