"""Token log entries to the events of a stream, in OpenAI's shapes. Pure functions.

    role chunk       0-0             chat only; no log entry holds it. Of further choices: 0-0.1, 0-0.2 ...
    echo chunk       as the role chunk, in completions that ask for it; if the prompt's logprobs are told, before each choice's first text
    text chunk       the entry's position; entries with neither text nor logprobs make no event, unless token ids are to be told
    end entry, done  position: finish chunk of each choice, then usage chunk if asked for, then [DONE], under .1, .2 ...
    end entry, else  position: one error event, and nothing after it

Ids are unique and increase, so "everything behind this id" is exact, whichever process renders it.
"""

from typing import Any, NamedTuple

import orjson

from headrace.cursor import ROLE, START, Cursor, LogPosition
from headrace.job import LogEntry
from headrace.request import Endpoint, Request
from headrace.state import State
from headrace.wire.answers import answer_object, finish_reasons, usage
from headrace.wire.outcomes import ended_error
from headrace.wire.spelling import Spelling

DONE = b"[DONE]"


class Event(NamedTuple):
    cursor: Cursor
    data: bytes
    """JSON, or [DONE]."""


def opening(request: Request, spelling: Spelling | None) -> list[Event]:
    """Events before the first log entry. Sent at once, the role chunk gives a client that is cut before the first token its cursor.

    One for each choice in the order of their indices: the official client's helper counts choices by their first chunks.
    """
    if request.endpoint is Endpoint.CHAT:
        choices = [_chat_choice({"role": "assistant", "content": ""}, None, None, index) for index in range(request.sampling.n)]
    elif spelling is not None and spelling.echoes_first:
        choices = [_choice(request, index, spelling.echo, None, None) for index in range(request.sampling.n)]
    else:
        choices = []
    return [Event(ROLE._replace(k=k), _chunk(request, [choice])) for k, choice in enumerate(choices)]


def entry_events(request: Request, entry: LogEntry, committed: int, spelling: Spelling | None) -> list[Event]:
    """All events of one entry. `committed`, the tokens in the whole log, matters for an end entry only, and `spelling` for others only."""
    if entry.end is None:
        datas = [_chunk(request, [choice]) for choice in _told(request, entry, spelling)]
        return [_event(entry, k, data) for k, data in enumerate(datas)]
    if entry.end is not State.DONE:
        return [_event(entry, 0, orjson.dumps({"error": ended_error(entry.end, entry.reason)}))]
    reasons = enumerate(finish_reasons(request, entry))
    datas = [_chunk(request, [_choice(request, index, "", None, reason)]) for index, reason in reasons]
    if request.include_usage:
        datas.append(_chunk(request, [], usage(request, committed, entry.cached_tokens)))
    datas.append(DONE)
    return [_event(entry, k, data) for k, data in enumerate(datas)]


def _told(request: Request, entry: LogEntry, spelling: Spelling | None) -> list[dict[str, Any]]:
    """What tokens add to their choice."""
    if spelling is None:
        return _tokens(request, entry, None)
    choices = []
    if (prompt := spelling.prompt_logprobs(entry)) is not None:
        choices.append(_choice(request, entry.choice, spelling.echo, prompt, None))
    return choices + _tokens(request, entry, spelling.logprobs(entry))


def _tokens(request: Request, entry: LogEntry, logprobs: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The chunk's choice, if there is anything to tell."""
    choice = _choice(request, entry.choice, entry.text, logprobs, None)
    if request.return_token_ids:
        return [choice | {"token_ids": entry.token_ids}]
    return [choice] if entry.text or logprobs is not None else []


def resume_point(seen: Cursor, spelling: Spelling | None) -> LogPosition:
    """Where to read the log for the events behind `seen`: before its entry, some of whose events may not have been seen. A spelling has to
    see all of it."""
    return LogPosition(seen.epoch, seen.n - 1) if seen.n and spelling is None else START


def _event(entry: LogEntry, k: int, data: bytes) -> Event:
    return Event(Cursor(*entry.position, k), data)


def _chunk(request: Request, choices: list[dict[str, Any]], used: dict[str, Any] | None = None) -> bytes:
    kind = "chat.completion.chunk" if request.endpoint is Endpoint.CHAT else "text_completion"
    chunk = answer_object(request, kind, choices)
    if request.include_usage:
        # On every chunk, null before the last, and on none where it was not asked for: clients tell the two apart by the key.
        chunk["usage"] = used
    return orjson.dumps(chunk)


def _choice(request: Request, index: int, text: str, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
    if request.endpoint is Endpoint.CHAT:
        return _chat_choice({"content": text} if text else {}, logprobs, finish, index)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _chat_choice(delta: dict[str, str], logprobs: dict[str, Any] | None, finish: str | None, index: int) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
