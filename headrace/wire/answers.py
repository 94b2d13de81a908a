"""Whole answers in OpenAI's shapes, from a job's token log. Pure functions."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from headrace.job import LogEntry
from headrace.request import Endpoint, Request
from headrace.wire.spelling import Spelling, joined

FINGERPRINT = f"headrace-{version('headrace')}"

_ID_PREFIX = {Endpoint.CHAT: "chatcmpl-", Endpoint.COMPLETIONS: "cmpl-"}


def answer_id(request: Request) -> str:
    return _ID_PREFIX[request.endpoint] + request.id


def bare_job_id(text: str) -> str:
    """The job id in an answer's id; anything else comes back as it is."""
    for prefix in _ID_PREFIX.values():
        if text.startswith(prefix):
            return text.removeprefix(prefix)
    return text


def whole_answer(request: Request, entries: Sequence[LogEntry], spelling: Spelling | None) -> dict[str, Any]:
    """The chat.completion or text_completion object of a finished job from its whole log, end entry included."""
    kind = "chat.completion" if request.endpoint is Endpoint.CHAT else "text_completion"
    *tokens, end = entries
    choices = [
        _choice(request, index, [entry for entry in tokens if entry.choice == index], reason, spelling)
        for index, reason in enumerate(finish_reasons(request, end))
    ]
    used = usage(request, sum(len(entry.token_ids) for entry in tokens), end.cached_tokens)
    return answer_object(request, kind, choices) | {"usage": used}


def _choice(request: Request, index: int, own: Sequence[LogEntry], reason: str, spelling: Spelling | None) -> dict[str, Any]:
    text = ("" if spelling is None else spelling.echo) + "".join(entry.text for entry in own)
    parts = [] if spelling is None else [part for entry in own for part in (spelling.prompt_logprobs(entry), spelling.logprobs(entry))]
    choice: dict[str, Any] = {"index": index, "logprobs": joined(parts), "finish_reason": reason}
    if request.endpoint is Endpoint.CHAT:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    else:
        choice["text"] = text
    if request.return_token_ids:
        choice["token_ids"] = [token for entry in own for token in entry.token_ids]
    return choice


def finish_reasons(request: Request, end: LogEntry) -> list[str]:
    """How each choice of a job that is done has ended."""
    return end.reason.split(",") if request.sampling.n > 1 else [end.reason]


def usage(request: Request, completion_tokens: int, cached_tokens: int | None) -> dict[str, Any]:
    """`cached_tokens` as in an end marker; what is not known is not told, as 0 would say that nothing was spared."""
    prompt_tokens = len(request.prompt_ids)
    cached = {} if cached_tokens is None else {"cached_tokens": cached_tokens}
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {**cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def answer_object(request: Request, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """What answers and chunks have in common. `kind` is the object's name."""
    return {
        "id": answer_id(request),
        "object": kind,
        "created": request.created,
        "model": request.model,
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
    }
