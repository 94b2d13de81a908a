"""Token log entries to the events of a stream and to whole answers, in OpenAI's shapes. Pure functions.

    role chunk       0-0             chat only; no log entry holds it
    text chunk       the entry's position; entries without text make no event
    end entry, done  position: finish chunk, then .1: usage chunk if asked for, then [DONE] under the next k
    end entry, else  position: one error event, and nothing after it

Ids are unique and increase, so "everything behind this id" is exact, whichever process renders it.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import orjson

from headrace.cursor import ROLE, Cursor, LogPosition
from headrace.ports import START, LogEntry
from headrace.request import Endpoint, Request
from headrace.state import State
from producer_api.outcomes import ended_error

DONE = b"[DONE]"
FINGERPRINT = f"headrace-{version('headrace')}"

_ID_PREFIX = {Endpoint.CHAT: "chatcmpl-", Endpoint.COMPLETIONS: "cmpl-"}


class Event(NamedTuple):
    cursor: Cursor
    data: bytes
    """JSON, or [DONE]."""


def answer_id(request: Request) -> str:
    return _ID_PREFIX[request.endpoint] + request.id


def bare_job_id(text: str) -> str:
    """The job id in an answer's id; anything else comes back as it is."""
    for prefix in _ID_PREFIX.values():
        if text.startswith(prefix):
            return text.removeprefix(prefix)
    return text


def opening(request: Request) -> list[Event]:
    """Events before the first log entry. Sent at once, the role chunk gives a client that is cut before the first token its cursor."""
    if request.endpoint is Endpoint.COMPLETIONS:
        return []
    return [Event(ROLE, _chunk(request, [_chat_choice({"role": "assistant", "content": ""}, None)]))]


def entry_events(request: Request, entry: LogEntry, committed: int) -> list[Event]:
    """All events of one entry. `committed`, the tokens in the whole log, matters for an end entry only."""
    if entry.end is None:
        return [_event(entry, 0, _chunk(request, [_choice(request, entry.choice, entry.text, None)]))] if entry.text else []
    if entry.end is not State.DONE:
        return [_event(entry, 0, orjson.dumps({"error": ended_error(entry.end, entry.reason)}))]
    datas = [_chunk(request, [_choice(request, entry.choice, "", entry.reason)])]
    if request.include_usage:
        datas.append(_chunk(request, [], usage(request, committed)))
    datas.append(DONE)
    return [_event(entry, k, data) for k, data in enumerate(datas)]


def resume_point(seen: Cursor) -> LogPosition:
    """Where to read the log for the events behind `seen`: before its entry, some of whose events may not have been seen."""
    return LogPosition(seen.epoch, seen.n - 1) if seen.n else START


def whole_answer(request: Request, entries: Sequence[LogEntry]) -> dict[str, Any]:
    """The chat.completion or text_completion object of a finished job from its whole log, end entry included."""
    text = "".join(entry.text for entry in entries)
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": entries[-1].reason}
    if request.endpoint is Endpoint.CHAT:
        kind = "chat.completion"
        choice["message"] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    else:
        kind = "text_completion"
        choice["text"] = text
    tokens = sum(len(entry.token_ids) for entry in entries)
    return _object(request, kind, [choice]) | {"usage": usage(request, tokens)}


def usage(request: Request, completion_tokens: int) -> dict[str, Any]:
    prompt_tokens = len(request.prompt_ids)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _event(entry: LogEntry, k: int, data: bytes) -> Event:
    return Event(Cursor(*entry.position, k), data)


def _object(request: Request, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": answer_id(request),
        "object": kind,
        "created": request.created,
        "model": request.model,
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
    }


def _chunk(request: Request, choices: list[dict[str, Any]], used: dict[str, Any] | None = None) -> bytes:
    kind = "chat.completion.chunk" if request.endpoint is Endpoint.CHAT else "text_completion"
    chunk = _object(request, kind, choices)
    if request.include_usage:
        # On every chunk, null before the last, and on none where it was not asked for: clients tell the two apart by the key.
        chunk["usage"] = used
    return orjson.dumps(chunk)


def _choice(request: Request, index: int, text: str, finish: str | None) -> dict[str, Any]:
    if request.endpoint is Endpoint.CHAT:
        return _chat_choice({"content": text} if text else {}, finish, index)
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def _chat_choice(delta: dict[str, str], finish: str | None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
