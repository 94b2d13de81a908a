"""How the end of a job that is not an answer is told to its caller, in a stream, in an answer to a waiting call, and in the job object."""

from typing import NamedTuple

from headrace.state import State
from producer_api.envelope import HttpError, error_object


class Outcome(NamedTuple):
    status: int
    code: str
    message: str


_OUTCOMES = {
    State.FAILED: Outcome(500, "generation_failed", "The request could not be run"),
    State.DEAD: Outcome(500, "worker_crashed", "The request was given up"),
    # 504, not 408: the official client would take a 408 for a network fault; the server did not answer in the time it was given.
    State.EXPIRED: Outcome(504, "deadline_exceeded", "The request's deadline passed before it was finished"),
    State.CANCELLED: Outcome(409, "cancelled", "The request was cancelled"),
}


def ended_error(state: State, reason: str) -> dict[str, str | None]:
    """The inner error object of a job that ended in `state`, which must not be DONE."""
    status, code, message = _OUTCOMES[state]
    # A failure's reason is a sentence, the others' reasons repeat the state.
    said = f"{message}: {reason.rstrip('.')}." if reason and state in (State.FAILED, State.DEAD) else f"{message}."
    return error_object(said, status=status, code=code)


def ended_refusal(state: State, reason: str) -> HttpError:
    """The same as an answer to a call that waited: 500 failed or dead, 504 expired, 409 cancelled.

    None is worth sending again: the same request would fail, expire or crash its worker again, or was cancelled on purpose.
    """
    status, code, _ = _OUTCOMES[state]
    return HttpError(status, str(ended_error(state, reason)["message"]), code=code, headers={"x-should-retry": "false"})
