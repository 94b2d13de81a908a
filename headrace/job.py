"""A job as its submitter sees it, and the entries of its token log."""

from dataclasses import dataclass

from headrace.cursor import LogPosition
from headrace.logprobs import Logprobs
from headrace.request import Request
from headrace.state import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A request seen by its submitter. Times are Unix milliseconds of the store."""

    request: Request
    state: State
    reason: str
    """Why it ended ("stop", "length", "cancelled", "deadline", an error's text); empty while live. Of a job that is done with several
    choices, the finish reason of each in turn: "stop,length"."""
    epoch: int
    committed: int
    """Tokens in the log, of all choices."""
    crashes: int
    """Workers that died with it since it last made progress."""
    cancel_requested: bool
    accepted_ms: int
    started_ms: int | None
    """First claim."""
    ended_ms: int | None
    deadline_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LogEntry:
    """One entry of a job's token log: tokens, or the end marker (`end` is set, and it is the last entry)."""

    position: LogPosition
    choice: int = 0
    token_ids: tuple[int, ...] = ()
    text: str = ""
    """What these tokens add to the visible text; may be empty while the detokenizer holds text back."""
    logprobs: tuple[Logprobs, ...] = ()
    """One for each token, if the request asked for them."""
    prompt_logprobs: tuple[Logprobs, ...] = ()
    """One for each prompt token but the first, if the request asked for them: with the first tokens of each choice."""
    end: State | None = None
    reason: str = ""
    cached_tokens: int | None = None
    """Of an end marker: as the job's appends have told it. None: none did."""
