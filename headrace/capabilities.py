"""What each engine can do. The API refuses what the served engine cannot before anything is queued. Torch-free.

The API runs where the engine does not, so it knows it by `HEADRACE_ENGINE` alone: set it there too. `auto` counts as `paged` everywhere;
where it comes to mean another engine, that engine refuses what it cannot do as one request's clear failure.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.errors import InvalidRequest, SettingsError
from headrace.request import Sampling

AUTO = "auto"
_PACKAGES = frozenset({"transformers", "vllm"})
"""Engines that are somebody else's package, of the same name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """Every engine takes prompts as token ids, returns token ids, goes on behind committed ones and forgets a request that is aborted."""

    engine: str
    priority: bool = True
    """An urgent request displaces a lesser one, which keeps its tokens."""
    exact_resume: bool = True
    """A request that is resumed draws what it would have drawn unbroken, as far as its logits are the same bits. Otherwise that is so for
    greedy ones alone; sampled ones go on with fresh numbers, which the seed determines all the same."""
    batch_invariant: bool = False
    """A request's tokens can be had independent of its company."""
    cached_tokens: bool = False
    """It tells how much of a prompt it found computed."""
    lacks: frozenset[str] = frozenset()
    """Fields of `Sampling` that must have their defaults."""

    def unsupported(self, sampling: Sampling) -> str | None:
        """The first field that asks for what the engine lacks."""
        fields = Sampling.model_fields
        return next((name for name in sorted(self.lacks) if getattr(sampling, name) != fields[name].default), None)

    def check(self, sampling: Sampling) -> None:
        """Raises InvalidRequest."""
        if (field := self.unsupported(sampling)) is not None:
            raise InvalidRequest(self.refusal(field), param=field, code="unsupported_parameter")

    def refusal(self, field: str) -> str:
        return f"'{field}' is not supported by the engine '{self.engine}', which serves this model."


#: One value per engine that `HEADRACE_ENGINE` names; docs/engines.md shows them side by side.
CAPABILITIES: Mapping[str, Capabilities] = {
    one.engine: one
    for one in (
        Capabilities(engine="paged", batch_invariant=True, cached_tokens=True),
        Capabilities(engine="scripted", priority=False, batch_invariant=True, lacks=frozenset({"prompt_logprobs"})),
        # Sampled by the same code as paged, but it tells nothing of the prompt's logits.
        Capabilities(engine="transformers", lacks=frozenset({"prompt_logprobs"})),
        # These count tokens since the run began, so they would forget what was generated before a resumption.
        Capabilities(engine="vllm", exact_resume=False, cached_tokens=True, lacks=frozenset({"presence_penalty", "frequency_penalty"})),
        Capabilities(
            engine="openai",
            exact_resume=False,
            lacks=frozenset({"presence_penalty", "frequency_penalty", "min_tokens", "logprobs", "prompt_logprobs"}),
        ),
    )
}


def capabilities_of(engine: str) -> Capabilities:
    """Of a value of `HEADRACE_ENGINE`."""
    return CAPABILITIES["paged" if engine == AUTO else engine]


def runs_paged(engine: str) -> bool:
    """Whether this value of `HEADRACE_ENGINE` can mean no other engine on this machine. Where vLLM is installed only the worker knows what
    `auto` is: to look for its device takes torch."""
    return engine == "paged" or (engine == AUTO and not has_vllm())


def has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


def check_installed(engine: str) -> None:
    """Of a value of `HEADRACE_ENGINE`. Raises SettingsError where the package that it needs is missing."""
    if engine in _PACKAGES and importlib.util.find_spec(engine) is None:
        raise SettingsError(f"HEADRACE_ENGINE={engine} needs the package {engine}, which is not installed here; run: pip install {engine}")
