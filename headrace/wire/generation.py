"""What the bodies of both endpoints share: the model, how to sample, when to stop, how to answer."""

from abc import abstractmethod
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from headrace.errors import InvalidRequest
from headrace.request import MAX_CHOICES, Sampling
from headrace.wire.fields import Strict, logit_biases, stop_ids, stop_strings

_INT64 = 2**63


def _whole(value: Any) -> Any:
    """Integers beyond 64 bits come as floats from the JSON parser: their fault is their size, not their type."""
    return int(value) if isinstance(value, float) and abs(value) >= _INT64 else value


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Accepted and without effect: padding against traffic analysis is not ours to promise."""


class Generation(Strict):
    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[Annotated[int, Field(ge=-_INT64, le=_INT64 - 1)] | None, BeforeValidator(_whole)] = None
    stop: Annotated[tuple[str, ...], BeforeValidator(stop_strings, json_schema_input_type=str | list[str] | None)] = ()

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[tuple[tuple[int, float], ...], BeforeValidator(logit_biases, json_schema_input_type=dict[str, float] | None)] = ()

    # Not OpenAI's, but common among open engines.
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    stop_token_ids: Annotated[tuple[int, ...], BeforeValidator(stop_ids, json_schema_input_type=list[int] | None)] = ()
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None

    user: str | None = None
    """Accepted and without effect."""

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate; None: what is left of the context. Raises InvalidRequest."""
        return self.max_tokens

    @property
    @abstractmethod
    def told_logprobs(self) -> int | None:
        """How many alternatives to tell beside each token's log-probability; None: tell nothing."""

    @property
    def echoes(self) -> bool:
        """The answer begins with the prompt."""
        return False

    @abstractmethod
    def check(self) -> None:
        """Raises InvalidRequest for fields that do not go together."""

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(self, *, max_tokens: int, seed: int) -> Sampling:
        """`seed` is taken where the body names none."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            seed=seed if self.seed is None else self.seed,
            stop=self.stop,
            ignore_eos=bool(self.ignore_eos),
            n=self.n or 1,
            min_p=self.min_p or 0.0,
            logprobs=self.told_logprobs,
            logit_bias=self.logit_bias,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            stop_token_ids=self.stop_token_ids,
            min_tokens=self.min_tokens or 0,
            prompt_logprobs=self.echoes and self.told_logprobs is not None,
        )

    def check_streaming(self) -> None:
        """Raises InvalidRequest for options of a stream on a call that is none."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
