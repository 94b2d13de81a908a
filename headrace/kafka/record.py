"""What the API writes to `<prefix>.accepted`, with the job's id as its key.

    {"v": 1, "idempotency_key": null, "body_hash": "…", "ttl_ms": 86400000, "request": {…}}

`ttl_ms` counts from the record's timestamp. `request` is as the state store has it, with a version of its own.
"""

from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.errors import SchemaUnknown
from headrace.ports import Submission
from headrace.request import Request, encode_request


class _Accepted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    v: Literal[1]
    idempotency_key: str | None
    body_hash: str
    ttl_ms: int = Field(ge=1)
    request: Request


def encode_accepted(submission: Submission) -> bytes:
    """Equal submissions give equal bytes."""
    fields = {"v": 1, "idempotency_key": submission.idempotency_key, "body_hash": submission.body_hash, "ttl_ms": submission.ttl_ms}
    return orjson.dumps({**fields, "request": orjson.Fragment(encode_request(submission.request))})


def decode_accepted(raw: bytes) -> Submission:
    """Raises SchemaUnknown for a record that this version cannot read."""
    try:
        record = _Accepted.model_validate_json(raw)
    except ValidationError as error:
        raise SchemaUnknown(f"cannot read an accepted request: {error.errors(include_input=False)[0]['msg']}") from error
    return Submission(request=record.request, idempotency_key=record.idempotency_key, body_hash=record.body_hash, ttl_ms=record.ttl_ms)
