"""A request: one inference, as it lies in the queue. Written by the API, read by workers, never changed."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.errors import SchemaUnknown

MAX_STOPS = 4


class Lane(StrEnum):
    """Priority classes, most urgent first."""

    INTERACTIVE = "interactive"
    """Somebody is looking: streams and blocking calls."""
    STANDARD = "standard"
    """Submitted jobs."""
    BATCH = "batch"
    """Lines of batch files."""


class Endpoint(StrEnum):
    """Which body the caller sent, hence which shape the answer has."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Sampling(Frozen):
    """How tokens are chosen and when to stop. Ranges are checked where the request enters."""

    max_tokens: int = Field(ge=1)
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    seed: int
    """Always set: without the caller's, the API draws one, so that a resumed run samples what an unbroken one would have."""
    stop: tuple[str, ...] = Field(default=(), strict=False)
    ignore_eos: bool = False


class Request(Frozen):
    """What a worker needs to run it and the API needs to render its answer."""

    v: Literal[1] = 1
    """Schema version; a reader that does not know it leaves the record alone."""
    id: str
    tenant: str
    model: str
    endpoint: Endpoint = Field(strict=False)
    lane: Lane = Field(strict=False)
    prompt_ids: tuple[int, ...] = Field(strict=False)
    sampling: Sampling
    created: int
    """Unix seconds, shown as `created` on every object and chunk of the answer."""
    stream: bool
    """The caller reads it as a stream; leaving it cancels it after a grace period if `attended`."""
    attended: bool
    """True where somebody waits on the line (a stream or a blocking call); a job is never attended."""
    include_usage: bool = False

    @property
    def cost(self) -> int:
        """Tokens it may occupy at most: what admission bounds and fairness charges."""
        return len(self.prompt_ids) + self.sampling.max_tokens


def encode_request(request: Request) -> bytes:
    return request.model_dump_json().encode()


def decode_request(raw: bytes | str | None) -> Request:
    """Raises SchemaUnknown for a record that this version cannot read, or whose body a store that evicts keys has dropped."""
    if raw is None:
        raise SchemaUnknown("a stored request has lost its body")
    try:
        return Request.model_validate_json(raw)
    except ValidationError as error:
        raise SchemaUnknown(f"cannot read a stored request: {error.errors(include_input=False)[0]['msg']}") from error
