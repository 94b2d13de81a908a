"""One line of a batch's input: a request with a name of its own.

{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": […]}}
"""

from typing import Annotated, Any

from pydantic import Field, ValidationError

from headrace.errors import InvalidRequest
from headrace.request import Endpoint
from headrace.wire.draft import Body, read_fields
from headrace.wire.fields import Strict
from headrace.wire.json_object import parse_object
from headrace.wire.problems import explain

MAX_CUSTOM_ID = 512


class BatchLine(Strict):
    custom_id: Annotated[str, Field(min_length=1, max_length=MAX_CUSTOM_ID)]
    method: str
    url: str
    body: dict[str, Any]


def parse_line(data: bytes) -> BatchLine:
    """Raises InvalidRequest."""
    try:
        parsed = parse_object(data)
    except InvalidRequest as error:
        raise InvalidRequest(_why_not_json(data, error.message), code="invalid_json_line") from None
    try:
        return BatchLine.model_validate(parsed)
    except ValidationError as error:
        raise explain(error) from None


def check_address(line: BatchLine, endpoint: Endpoint) -> None:
    """Raises InvalidRequest unless the line is for the batch's endpoint."""
    if line.method != "POST":
        raise InvalidRequest(f"'method' must be POST, got {line.method[:20]!r}.", param="method", code="invalid_method")
    if line.url != endpoint:
        raise InvalidRequest(f"'url' must be the batch's endpoint {endpoint}, got {line.url[:80]!r}.", param="url", code="mismatched_url")


def read_body(line: BatchLine, endpoint: Endpoint) -> Body:
    """The request in a line. Raises RequestError, with parameters as the endpoint itself would name them."""
    body = read_fields(line.body, endpoint)
    if body.stream:
        raise InvalidRequest(
            "'stream' must not be true in a batch: the answer goes into a file.", param="stream", code="stream_not_supported"
        )
    return body


def _why_not_json(data: bytes, why: str) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"This line is not UTF-8: byte 0x{data[error.start]:02x} at column {error.start + 1}."
    what = why.removeprefix("The body is not valid JSON: ").removeprefix("The body ")
    # A parser's line 1: which line of the file it is stands beside every fault.
    return "This line is not a JSON object: " + what.replace("(line 1, column ", "(column ")
