"""Token log entries to the events of a stream, in OpenAI's shapes. Pure functions.

    role chunk       0-0             chat only; no log entry holds it
    text chunk       the entry's position; entries without text make no event, unless the caller asked for token ids
    end entry, done  position: finish chunk, then .1: usage chunk if asked for, then [DONE] under the next k
    end entry, else  position: one error event, and nothing after it

Ids are unique and increase, so "everything behind this id" is exact, whichever process renders it.
"""

from typing import Any, NamedTuple

import orjson

from headrace.cursor import ROLE, Cursor, LogPosition
from headrace.ports import START, LogEntry
from headrace.request import Endpoint, Request
from headrace.state import State
from headrace.wire.answers import answer_object, usage
from headrace.wire.outcomes import ended_error

DONE = b"[DONE]"


class Event(NamedTuple):
    cursor: Cursor
    data: bytes
    """JSON, or [DONE]."""


def opening(request: Request) -> list[Event]:
    """Events before the first log entry. Sent at once, the role chunk gives a client that is cut before the first token its cursor."""
    if request.endpoint is Endpoint.COMPLETIONS:
        return []
    return [Event(ROLE, _chunk(request, [_chat_choice({"role": "assistant", "content": ""}, None)]))]


def entry_events(request: Request, entry: LogEntry, committed: int) -> list[Event]:
    """All events of one entry. `committed`, the tokens in the whole log, matters for an end entry only."""
    if entry.end is None:
        return [_event(entry, 0, _chunk(request, [_tokens(request, entry)]))] if entry.text or request.return_token_ids else []
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


def _event(entry: LogEntry, k: int, data: bytes) -> Event:
    return Event(Cursor(*entry.position, k), data)


def _chunk(request: Request, choices: list[dict[str, Any]], used: dict[str, Any] | None = None) -> bytes:
    kind = "chat.completion.chunk" if request.endpoint is Endpoint.CHAT else "text_completion"
    chunk = answer_object(request, kind, choices)
    if request.include_usage:
        # On every chunk, null before the last, and on none where it was not asked for: clients tell the two apart by the key.
        chunk["usage"] = used
    return orjson.dumps(chunk)


def _tokens(request: Request, entry: LogEntry) -> dict[str, Any]:
    choice = _choice(request, entry.choice, entry.text, None)
    return choice | {"token_ids": entry.token_ids} if request.return_token_ids else choice


def _choice(request: Request, index: int, text: str, finish: str | None) -> dict[str, Any]:
    if request.endpoint is Endpoint.CHAT:
        return _chat_choice({"content": text} if text else {}, finish, index)
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def _chat_choice(delta: dict[str, str], finish: str | None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
