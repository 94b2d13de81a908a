"""The function library of the registries, and its answers to calls that make an object."""

from headrace.batch_ports import Stored
from headrace.errors import IdempotencyConflict
from headrace.queues.server import Library


def read_library() -> Library:
    return Library.read("headrace_registries_1", "headrace.registries", "functions", "files", "batches")


def stored(answer: tuple[bytes, bytes]) -> Stored:
    """Raises IdempotencyConflict."""
    how, made = answer[0], answer[1].decode()
    if how == b"conflict":
        raise IdempotencyConflict(f"The Idempotency-Key was used before with another body, by {made}.")
    return Stored(made, replayed=how == b"replay")
