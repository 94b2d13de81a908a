"""How an error is told to its caller, and how the end of a job that is not an answer: in a stream, to a waiting call, in the job object, in
a line of a batch's error file."""

from typing import NamedTuple

from headrace.state import State, fault_of


class Outcome(NamedTuple):
    status: int
    code: str
    message: str


OUTCOMES = {
    State.FAILED: Outcome(500, "generation_failed", "The request could not be run"),
    State.DEAD: Outcome(500, "worker_crashed", "The request was given up"),
    # 504, not 408: the official client would take a 408 for a network fault; the server did not answer in the time it was given.
    State.EXPIRED: Outcome(504, "deadline_exceeded", "The request's deadline passed before it was finished"),
    State.CANCELLED: Outcome(409, "cancelled", "The request was cancelled"),
}


def error_object(message: str, *, status: int, code: str | None, param: str | None = None) -> dict[str, str | None]:
    """The inner object of OpenAI's error envelope: all four keys, always."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"message": message, "type": kind, "param": param, "code": code}


def ended_error(state: State, reason: str) -> dict[str, str | None]:
    """The inner error object of a job that ended in `state`, which must not be DONE."""
    status, code, message = OUTCOMES[state]
    fault, error = fault_of(reason)
    # A failure's reason is a sentence, the others' reasons repeat the state.
    said = f"{message}: {error.rstrip('.')}." if error and state in (State.FAILED, State.DEAD) else f"{message}."
    return error_object(said, status=status, code=fault or code)
