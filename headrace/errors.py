"""Every error Headrace raises on purpose.

HeadraceError
├── SettingsError             the configuration is wrong: the process refuses to start
├── RequestError              the caller's fault; carries what an HTTP envelope needs
│   ├── InvalidRequest          400  a field is missing, malformed or out of range
│   ├── ContextLengthExceeded   400  prompt + max_tokens do not fit the model's context
│   ├── RequestTooLarge         400  it alone exceeds a bound of the queue: it could never be accepted
│   ├── CursorInvalid           400  an event cursor that is malformed or ahead of the log
│   ├── StreamRestarted         409  the cursor is from an answer that was lost with its store; another one is written
│   ├── ModelNotFound           404
│   ├── JobNotFound             404  unknown id, or another tenant's
│   ├── JobPurged               410  it existed; its retention is over
│   ├── FileNotKnown            404  unknown id, or another tenant's
│   ├── FileInUse               409  a batch still writes it
│   ├── BatchNotFound           404  unknown id, or another tenant's
│   ├── BatchNotCancellable     409  it ends, or has ended
│   └── IdempotencyConflict     422  the key was used before with another body
├── QueueFull                 503  the queue's bound is reached; nothing was stored
│   └── TenantFull              429  the tenant's own bound is reached; nothing was stored
├── QueueUnavailable          503  the state store did not answer; a write may or may not have happened
├── LogUnavailable            503  Kafka did not acknowledge; nothing was accepted
├── RangeGone                 records of a topic that were to be read are not there (any more)
├── BatchLeaseLost            somebody else works on the batch now; write nothing more
├── ModelUnavailable          the model cannot be found, converted or loaded
├── TokenizerFailed           the tokenizer cannot turn these ids into text
└── SchemaUnknown             a stored record was written by a version this process does not know
"""

from collections.abc import Iterable


class HeadraceError(Exception):
    """Base of all errors raised on purpose."""


class SettingsError(HeadraceError):
    """The configuration is wrong; the process refuses to start."""


class RequestError(HeadraceError):
    """The caller's fault. `status` is the HTTP status, `code` and `param` go into the error envelope."""

    status = 400
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(RequestError):
    """A field is missing, malformed or out of range."""

    code = "invalid_value"


class ContextLengthExceeded(RequestError):
    """Prompt and max_tokens together do not fit the model's context."""

    code = "context_length_exceeded"


class RequestTooLarge(RequestError):
    """The request alone costs more tokens than may be live at once: it could never be accepted."""

    code = "request_too_large"


class CursorInvalid(RequestError):
    """The event cursor is malformed, or ahead of everything the job has logged."""

    code = "invalid_cursor"


class StreamRestarted(RequestError):
    """The event cursor is from before the store was lost: the job's answer is written anew, and the two must not be mixed."""

    status = 409
    code = "stream_restarted"


class ModelNotFound(RequestError):
    """No served model has that name."""

    status = 404
    code = "model_not_found"

    @classmethod
    def among(cls, name: str, served: Iterable[str]) -> "ModelNotFound":
        """It is not `name` but `served` that is there."""
        names = ", ".join(f"'{one}'" for one in served)
        return cls(f"The model '{name[:200]}' does not exist; this server serves {names}.", param="model")


class JobNotFound(RequestError):
    """No job with that id belongs to the caller."""

    status = 404
    code = "job_not_found"


class JobPurged(RequestError):
    """The job ended and its retention is over."""

    status = 410
    code = "job_purged"


class FileNotKnown(RequestError):
    """No file with that id belongs to the caller."""

    status = 404
    code = "file_not_found"


class FileInUse(RequestError):
    """A batch still writes the file."""

    status = 409
    code = "file_in_use"


class BatchNotFound(RequestError):
    """No batch with that id belongs to the caller."""

    status = 404
    code = "batch_not_found"


class BatchNotCancellable(RequestError):
    """The batch is being finished, or has ended."""

    status = 409
    code = "batch_not_cancellable"


class IdempotencyConflict(RequestError):
    """The Idempotency-Key was used before with a different body."""

    status = 422
    code = "idempotency_conflict"


SHORTEST_WAIT_S, LONGEST_WAIT_S = 1.0, 120.0
"""Of whoever is refused for lack of room. The official client gives up at once when it is told to wait longer."""


class QueueFull(HeadraceError):
    """The queue's bound is reached; nothing was stored. `retry_after`: in how many seconds there should be room, within the above."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TenantFull(QueueFull):
    """The tenant's own bound is reached; nothing was stored."""


class QueueUnavailable(HeadraceError):
    """The state store did not answer. A write may or may not have happened: every write is idempotent, so retry it."""


class LogUnavailable(HeadraceError):
    """Kafka did not acknowledge the record in time. It may be in the log all the same: every record is idempotent, so write it again."""


class RangeGone(HeadraceError):
    """Records of a topic that were to be read are not there: retention has deleted them, or the topic is another one by now."""


class BatchLeaseLost(HeadraceError):
    """Somebody else works on the batch now, or it has ended: write nothing more."""


class ModelUnavailable(HeadraceError):
    """The model cannot be found, converted or loaded."""


class TokenizerFailed(HeadraceError):
    """The tokenizer cannot turn these ids into text."""


class SchemaUnknown(HeadraceError):
    """A stored record was written by a version that this process does not know."""
