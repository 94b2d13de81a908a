"""What the bodies of both endpoints share: the model, how to sample, when to stop, how to answer."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from headrace.errors import InvalidRequest
from headrace.request import Sampling
from headrace.wire.fields import Strict, only, stop_strings

_INT64 = 2**63


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
    seed: Annotated[int, Field(ge=-_INT64, le=_INT64 - 1)] | None = None
    stop: Annotated[tuple[str, ...], BeforeValidator(stop_strings, json_schema_input_type=str | list[str] | None)] = ()

    # Not OpenAI's, but common among open engines.
    top_k: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None

    n: Annotated[Any, only(1)] = None
    frequency_penalty: Annotated[Any, only(0, 0.0)] = None
    presence_penalty: Annotated[Any, only(0, 0.0)] = None
    logit_bias: Annotated[Any, only({})] = None

    user: str | None = None
    """Accepted and without effect."""

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate; None: what is left of the context. Raises InvalidRequest."""
        return self.max_tokens

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
        )

    def check_streaming(self) -> None:
        """Raises InvalidRequest for options of a stream on a call that is none."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
