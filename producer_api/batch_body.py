"""Body of POST /v1/batches."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from headrace.batch import COMPLETION_WINDOW
from headrace.errors import InvalidRequest
from headrace.request import Endpoint
from headrace.wire.fields import Strict, few_pairs, metadata_pairs, one_of, wrong
from headrace.wire.json_object import json_type
from producer_api.upload_form import LONGEST_EXPIRY_S, SHORTEST_EXPIRY_S

_NOT_SERVED = frozenset({"/v1/responses", "/v1/embeddings", "/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos"})
"""What OpenAI's batches take besides."""

_SERVED = " or ".join(Endpoint)

MAX_SPANS = 1_000


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


class SpanBody(Strict):
    """Offsets of one partition; null: as far as it goes."""

    partition: int = Field(ge=0)
    start: int | None = Field(None, alias="from", ge=0)
    end: int | None = Field(None, alias="to", ge=0)


class InputTopic(Strict):
    name: str
    partitions: Annotated[list[SpanBody] | None, Field(min_length=1, max_length=MAX_SPANS)] = None
    """null: all."""


class BatchBody(Strict):
    input_file_id: str | None = None
    input_topic: InputTopic | None = None
    output_topic: str | None = None
    endpoint: Annotated[Endpoint, BeforeValidator(_endpoint), WithJsonSchema({"enum": list(Endpoint)})]
    completion_window: Annotated[str, AfterValidator(one_of(COMPLETION_WINDOW)), WithJsonSchema({"enum": [COMPLETION_WINDOW]})]
    metadata: Annotated[dict[str, str] | None, BeforeValidator(few_pairs), AfterValidator(metadata_pairs)] = None
    output_expires_after: OutputExpiry | None = None

    def check_source(self) -> None:
        """Raises InvalidRequest unless it names one input."""
        if self.input_file_id is None and self.input_topic is None:
            raise InvalidRequest("'input_file_id' is required, or 'input_topic'.", param="input_file_id", code="missing_required_parameter")
        if self.input_file_id is not None and self.input_topic is not None:
            raise InvalidRequest("'input_topic' must not be given with 'input_file_id': a batch has one input.", param="input_topic")
