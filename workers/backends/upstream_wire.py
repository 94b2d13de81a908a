"""What is said to an upstream that speaks OpenAI's completions API, and how its answers are read. Pure functions.

OpenAI's API takes prompts as token ids but has no field for those of the answer, and ids cannot be had from its text: tokenizing pieces of
text gives other tokens than were generated, so a resumed answer would go on behind a text that the model never wrote in that way. So an
upstream must tell the ids, in one of the dialects below; one that does not is refused at the start.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from workers.backends.far import Task
from workers.backends.seeds import seed_from

SLICE = 16
"""Tokens of an answer that is fetched whole because its stream did not tell all ids."""


class Unreadable(Exception):
    """Not what the API promises."""


class Told(NamedTuple):
    """What an upstream said about an answer, in a chunk of a stream or whole."""

    token_ids: list[int] | None
    """None: it does not tell."""
    total: int | None
    """Tokens generated so far, where it says."""
    finish: str | None


@dataclass(frozen=True, slots=True)
class Dialect:
    name: str
    asking: Mapping[str, Any]
    """Fields of the body that ask for token ids."""
    repetition_penalty: str
    """Its name for it."""
    ids_in: Callable[[Mapping[str, Any], Mapping[str, Any]], Told]
    """Reads (answer, its first choice)."""


def _beside_text(answer: Mapping[str, Any], choice: Mapping[str, Any]) -> Told:
    ids = choice.get("token_ids")
    # A chunk without text may be without ids, such as one that only says how the answer ended.
    return Told([] if ids is None and not choice.get("text") else ids, None, choice.get("finish_reason"))


def _in_verbose(answer: Mapping[str, Any], choice: Mapping[str, Any]) -> Told:
    verbose = answer.get("__verbose") or {}
    return Told(verbose.get("tokens"), verbose.get("tokens_predicted"), choice.get("finish_reason"))


#: In the order in which they are tried.
DIALECTS = (
    # Headrace and vLLM.
    Dialect("return_token_ids", {"return_token_ids": True}, "repetition_penalty", _beside_text),
    # llama.cpp's server. Its streams leave out the ids of all but the last token of a character.
    Dialect("llama.cpp", {"return_tokens": True, "verbose": True}, "repeat_penalty", _in_verbose),
)


def body_of(task: Task, model: str, dialect: Dialect, *, got: list[int], whole: bool) -> dict[str, Any]:
    """Asks for what is behind `got`, the tokens generated so far; `whole` for no more than SLICE tokens, not streamed.

    What has a neutral value is sent too: an upstream's own defaults are the model's maker's, or its own.
    """
    sampling, left = task.request.sampling, task.request.sampling.max_tokens - len(got)
    return {
        "model": model,
        "prompt": [*task.request.prompt_ids, *got],
        "max_tokens": min(left, SLICE) if whole else left,
        "stream": not whole,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        dialect.repetition_penalty: sampling.repetition_penalty,
        "seed": seed_from(sampling.seed, task.request.choice, len(got)),
        **({"logit_bias": {str(token): bias for token, bias in sampling.logit_bias}} if sampling.logit_bias else {}),
        **({"ignore_eos": True} if sampling.ignore_eos else {}),
        **dialect.asking,
    }


def read_answer(data: bytes | str, dialect: Dialect) -> Told:
    """A chunk's, or a whole answer's. Raises Unreadable, also for an error in the place of a chunk."""
    try:
        answer = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"it sent what is not JSON: {error}") from None
    if not isinstance(answer, dict) or "error" in answer:
        raise Unreadable(f"it sent an error: {error_text(answer)}")
    choices = answer.get("choices")
    if choices == []:
        return Told([], None, None)  # the chunk with the usage
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise Unreadable("it sent an answer without 'choices'")
    told = dialect.ids_in(answer, choices[0])
    if told.token_ids is not None and not (isinstance(told.token_ids, list) and all(type(token) is int for token in told.token_ids)):
        raise Unreadable("it sent token ids that are no list of integers")
    return told


def error_text(answer: Any) -> str:
    """The message of an error envelope, or what there is in its place; short."""
    inner = answer.get("error", answer) if isinstance(answer, dict) else answer
    message = inner.get("message", inner) if isinstance(inner, dict) else inner
    text = message if isinstance(message, str) else orjson.dumps(message).decode()
    return text[:300]
