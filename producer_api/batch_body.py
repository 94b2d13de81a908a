"""Body of POST /v1/batches."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from headrace.batch import COMPLETION_WINDOW
from headrace.request import Endpoint
from headrace.wire.fields import Strict, few_pairs, metadata_pairs, one_of, wrong
from headrace.wire.json_object import json_type
from producer_api.upload_form import LONGEST_EXPIRY_S, SHORTEST_EXPIRY_S

_NOT_SERVED = frozenset({"/v1/responses", "/v1/embeddings", "/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos"})
"""What OpenAI's batches take besides."""

_SERVED = " or ".join(Endpoint)


def _endpoint(value: Any) -> Endpoint:
    if not isinstance(value, str):
        raise wrong("invalid_type", f"must be a string, got {json_type(value)}.")
    if value in _NOT_SERVED:
        raise wrong("unsupported_parameter", f"is not supported with the value {value}; use {_SERVED}.")
    try:
        return Endpoint(value)
    except ValueError:
        raise wrong("invalid_value", f"must be {_SERVED}, got {value[:40]!r}.") from None


class OutputExpiry(Strict):
    anchor: Annotated[str, AfterValidator(one_of("created_at")), WithJsonSchema({"enum": ["created_at"]})]
    seconds: int = Field(ge=SHORTEST_EXPIRY_S, le=LONGEST_EXPIRY_S)


class BatchBody(Strict):
    input_file_id: str
    endpoint: Annotated[Endpoint, BeforeValidator(_endpoint), WithJsonSchema({"enum": list(Endpoint)})]
    completion_window: Annotated[str, AfterValidator(one_of(COMPLETION_WINDOW)), WithJsonSchema({"enum": [COMPLETION_WINDOW]})]
    metadata: Annotated[dict[str, str] | None, BeforeValidator(few_pairs), AfterValidator(metadata_pairs)] = None
    output_expires_after: OutputExpiry | None = None
