"""What the OpenAPI document says beyond what FastAPI sees: bodies are read raw, under a byte limit, and errors come in an envelope."""

from typing import Any

from pydantic import BaseModel

from headrace import ids
from headrace.file import Purpose
from headrace.wire.chat import ChatBody
from headrace.wire.completions import CompletionBody
from producer_api import upload_form
from producer_api.batch_body import BatchBody

_NULLABLE_TEXT = {"type": ["string", "null"]}

_ENVELOPE: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": _NULLABLE_TEXT, "code": _NULLABLE_TEXT},
        }
    },
}

#: For every route: it also keeps FastAPI from promising a 422 of its own.
ERRORS: dict[int | str, dict[str, Any]] = {"default": {"description": "Any error.", "content": {"application/json": {"schema": _ENVELOPE}}}}

EVENTS: dict[int | str, dict[str, Any]] = {200: {"description": "The whole answer, or its events.", "content": {"text/event-stream": {}}}}

JOB_ID = f"^(chatcmpl-|cmpl-)?{ids.JOB_ID.pattern}$"
"""A job's id, or that of its answer."""
FILE_ID, BATCH_ID = f"^{ids.FILE_ID.pattern}$", f"^{ids.BATCH_ID.pattern}$"

BYTES: dict[int | str, dict[str, Any]] = {200: {"description": "The bytes.", "content": {"application/octet-stream": {}}}}

_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A request that is repeated under its key is the same request.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_TIMEOUT = {
    "name": "X-Request-Timeout",
    "in": "header",
    "description": "Seconds after which the request has expired, whatever became of it.",
    "schema": {"type": "number", "minimum": 1},
}

_FORM = {
    "type": "object",
    "required": [upload_form.FILE, upload_form.PURPOSE],
    "properties": {
        upload_form.FILE: {"type": "string", "format": "binary"},
        upload_form.PURPOSE: {"enum": [Purpose.BATCH]},
        upload_form.ANCHOR: {"enum": ["created_at"]},
        upload_form.SECONDS: {
            "type": "integer",
            "minimum": upload_form.SHORTEST_EXPIRY_S,
            "maximum": upload_form.LONGEST_EXPIRY_S,
        },
    },
}


def taking(schema: dict[str, Any], *headers: dict[str, Any], media_type: str = "application/json") -> dict[str, Any]:
    """`openapi_extra` of a route that takes such a body."""
    return {"parameters": list(headers), "requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def body_schema(body: type[BaseModel]) -> dict[str, Any]:
    """The body's JSON schema in one piece: references would point to where no OpenAPI document has anything."""
    schema = body.model_json_schema()
    inlined: dict[str, Any] = _inline(schema, schema.pop("$defs", {}))
    return inlined


def _inline(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inline(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    return {key: _inline(value, definitions) for key, value in schema.items()}


_CHAT, _COMPLETION = body_schema(ChatBody), body_schema(CompletionBody)

CHAT, COMPLETION = taking(_CHAT, _KEY, _TIMEOUT), taking(_COMPLETION, _KEY, _TIMEOUT)
JOB = taking({"anyOf": [_CHAT, _COMPLETION]}, _KEY, _TIMEOUT)
BATCH = taking(body_schema(BatchBody), _KEY)
UPLOAD = taking(_FORM, _KEY, media_type="multipart/form-data")
