"""A request: one inference, as it lies in the queue. Written by the API, read by workers, never changed."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headrace.errors import SchemaUnknown

MAX_STOPS = 4
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20


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

    # Since version 2.
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    """Answers to the same prompt, each a choice of its own."""
    min_p: float = 0.0
    """Tokens less likely than this share of the likeliest are left out; 0 is off."""
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    """How many alternatives to tell beside each token's own log-probability; None tells nothing."""
    logit_bias: tuple[Annotated[tuple[int, float], Field(strict=False)], ...] = Field(default=(), strict=False)
    """What to add to the logits of token ids; by id, each once."""
    presence_penalty: float = 0.0
    """Taken from the logit of every token that was generated already."""
    frequency_penalty: float = 0.0
    """The same, once for each time it was."""
    repetition_penalty: float = 1.0
    """Divides the logit, or multiplies a negative one, of every token in the prompt or generated already; 1 is off."""
    stop_token_ids: tuple[int, ...] = Field(default=(), strict=False)
    """End the answer as an end-of-text token does, and are not shown either."""
    min_tokens: int = Field(default=0, ge=0)
    """Before so many tokens no end-of-text or stop token is chosen. A stop string may still end the answer."""
    prompt_logprobs: bool = False
    """Tell those of the prompt's tokens too, with as many alternatives. Needs `logprobs`."""


class Request(Frozen):
    """What a worker needs to run it and the API needs to render its answer."""

    v: Literal[1, 2] = 1
    """Schema version, the lowest that can say it; a reader that does not know it leaves the record alone. Follows from the other fields."""
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

    # Since version 2.
    echo: bool = False
    """The answer of a completion begins with its prompt."""
    return_token_ids: bool = False
    """Tell the ids of the tokens beside their text."""

    @model_validator(mode="before")
    @classmethod
    def _version(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "v" in fields:
            return fields
        sampling = fields.get("sampling")
        newer = (
            fields.get("echo")
            or fields.get("return_token_ids")
            or (isinstance(sampling, Sampling) and any(_differs(sampling, name) for name in _SAMPLING_SINCE_2))
        )
        return {"v": 2 if newer else 1, **fields}

    @property
    def room(self) -> int:
        """Tokens its prompt occupies while it runs: each choice holds one of its own."""
        return self.sampling.n * len(self.prompt_ids)

    @property
    def cost(self) -> int:
        """Tokens it may occupy at most: what admission bounds and fairness charges."""
        return self.room + self.sampling.n * self.sampling.max_tokens


_SAMPLING_SINCE_2 = {
    "n",
    "min_p",
    "logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "stop_token_ids",
    "min_tokens",
    "prompt_logprobs",
}
_SINCE_2: Mapping[str, set[str] | bool] = {"echo": True, "return_token_ids": True, "sampling": _SAMPLING_SINCE_2}


def _differs(sampling: Sampling, name: str) -> bool:
    return bool(getattr(sampling, name) != Sampling.model_fields[name].default)


def encode_request(request: Request) -> bytes:
    """A record of version 1 is what its readers know: they refuse any other field."""
    return request.model_dump_json(exclude=_SINCE_2 if request.v == 1 else None).encode()


def decode_request(raw: bytes | str | None) -> Request:
    """Raises SchemaUnknown for a record that this version cannot read, or whose body a store that evicts keys has dropped."""
    if raw is None:
        raise SchemaUnknown("a stored request has lost its body")
    try:
        return Request.model_validate_json(raw)
    except ValidationError as error:
        raise SchemaUnknown(f"cannot read a stored request: {error.errors(include_input=False)[0]['msg']}") from error
