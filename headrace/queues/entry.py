"""A log entry in the store. Its id is the position; fields `end` and `why` make an end marker of it. Else field `d` holds [choice, token
ids, text], then, where there are any, the log-probabilities of these tokens and those of the prompt. Readers of version 1 know the first
three, and never read the log of a job that has more. An end marker has `cached` where a worker has told it; readers pass over fields that
they do not know.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from headrace.cursor import LogPosition
from headrace.job import LogEntry
from headrace.logprobs import Logprobs
from headrace.ports import Append
from headrace.state import State


def encode_append(append: Append) -> bytes:
    """Equal appends give equal bytes."""
    told = (append.logprobs, append.prompt_logprobs) if append.logprobs or append.prompt_logprobs else ()
    # orjson writes no subclass of tuple, as `Logprobs` is, unless it is told how.
    return orjson.dumps((append.choice, append.token_ids, append.text, *told), default=tuple)


def decode_entry(entry: tuple[bytes, dict[bytes, bytes]]) -> LogEntry:
    name, fields = entry
    epoch, n = name.split(b"-")
    position = LogPosition(int(epoch), int(n))
    if b"end" in fields:
        cached = fields.get(b"cached")
        return LogEntry(
            position=position,
            end=State(fields[b"end"].decode()),
            reason=fields[b"why"].decode(),
            cached_tokens=None if cached is None else int(cached),
        )
    return _decode_append(position, fields[b"d"])


def _decode_append(position: LogPosition, data: bytes) -> LogEntry:
    choice, token_ids, text, *told = orjson.loads(data)
    logprobs, prompt_logprobs = map(_read, told or ((), ()))
    return LogEntry(
        position=position, choice=choice, token_ids=tuple(token_ids), text=text, logprobs=logprobs, prompt_logprobs=prompt_logprobs
    )


def _read(told: Sequence[Any]) -> tuple[Logprobs, ...]:
    return tuple(Logprobs(chosen, tuple((token, logprob) for token, logprob in top)) for chosen, top in told)
