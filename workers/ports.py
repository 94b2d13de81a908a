"""The Engine port: what the worker loop asks of anything that generates tokens.

An in-process engine computes in `step`; a remote or threaded one waits in it. The caller uses one thread for all methods.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from headrace.logprobs import Logprobs
from headrace.request import Sampling
from headrace.state import Fault


class FinishReason(StrEnum):
    STOP = "stop"
    """End-of-text token, stop token or stop string."""
    LENGTH = "length"
    """max_tokens reached."""
    ERROR = "error"
    """This request alone failed; `Delta.fault` and `Delta.error` say why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRequest:
    """One sequence to generate. `sampling.n` is none of the engine's business: the worker adds a request for each choice.

    `committed_ids` are tokens that an earlier run generated and that are already with the client: generation continues behind them, the
    detokenizer, the stop matcher and the sampler as if it had never been interrupted. If they already meet a stop condition, the engine
    reports the finish without generating.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    committed_ids: tuple[int, ...] = ()
    priority: int = 0
    """Lower is more urgent."""
    tenant: str = ""
    """What one tenant's requests have computed is of no use to those of another."""
    choice: int = 0
    """Which of the job's answers this is. A draw is keyed by (seed, choice, position), so choices differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """What one step added to one request. An end-of-text or stop token is among `token_ids` and adds no text."""

    request_id: str
    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[Logprobs, ...] = ()
    """One for each of `token_ids` where `sampling.logprobs` is set, else none. As many alternatives as it says."""
    prompt_logprobs: tuple[Logprobs, ...] = ()
    """One for each prompt token but the first, where `sampling.prompt_logprobs` is set: with the first token that is generated, so never of
    a request with `committed_ids`."""
    cached_tokens: int | None = None
    """How many of the prompt's tokens needed no computing when the request first got a place, for what others had left in the engine's
    cache. Told with the first token that is generated, so never of a request with `committed_ids`. None: not here, or not known."""
    finish: FinishReason | None = None
    fault: Fault | None = None
    """Of an ERROR. None: the request can never run, as `error` says."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room for new requests now: `requests` more of them, with `tokens` prompt tokens between them."""

    requests: int
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    device: str
    memory_used: int
    """Bytes."""
    memory_total: int
    kv_tokens_used: int
    kv_tokens_total: int
    waiting: int
    running: int
    steps: int
    preemptions: int
    computed_tokens: int = 0
    """By all steps, prompts and what was recomputed among them; 0 of an engine that computes elsewhere."""
    shrunk_steps: int = 0
    """Steps that ran out of memory and were planned again, smaller."""
    dtype: str | None = None
    """Of the weights, and of the KV cache; None of an engine that does not know."""
    kv_dtype: str | None = None


class Engine(Protocol):
    def warm_up(self) -> None:
        """Compile and touch what the first step would, so that the first request does not pay for it. Called once, first."""
        ...

    def open(self) -> None:
        """Take the memory that requests need beside the model, such as a KV cache. Called once, before the first `add`.

        A standby is warmed up and not opened until it is its turn.
        """
        ...

    def add(self, request: EngineRequest) -> None:
        """Admit a request; it joins the running batch at a later step. A request that can never fit yields an ERROR delta."""
        ...

    def abort(self, request_id: str) -> None:
        """Forget a request and free what it held; unknown ids are ignored. No delta for it follows."""
        ...

    def step(self, timeout: float) -> list[Delta]:
        """Advance every running request and return what arrived since the last call. With no work it waits at most `timeout` seconds.

        A fault of one request is its ERROR delta. A lack of memory is met by computing less at a time, until what does not fit is one
        request alone. An exception means the engine itself is broken and the process should end.
        """
        ...

    def capacity(self, priority: int) -> Capacity:
        """Room for requests of this priority, including what requests of a lesser one would yield to them."""
        ...

    def stats(self) -> EngineStats: ...

    def close(self) -> None:
        """Give back processes, threads and connections. No call follows."""
        ...
