"""The clerks' task queue, on RQ. It only says "look at this batch": a task that is lost, doubled or late does no harm, because whoever is
given one asks the batch's lease first, and the dispatcher asks again.

RQ's own registries are not consulted: they notice a dead worker after minutes.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from headrace.errors import QueueUnavailable, SettingsError

_NAME = "headrace"
_WORK_ON = "scheduler.batches.tasks.work_on"
_SWEEP = "scheduler.batches.tasks.sweep"

_REPLY_S = 2.0
"""A server that has not answered for this long counts as gone. (A worker that waits for tasks has RQ's own, longer limit.)"""

_NO_TIMEOUT = -1
"""A batch's lease bounds who works on it, and `until` for how long."""
_FAILURE_TTL_S = 3_600


class _Worker(SimpleWorker):
    """Runs its tasks in this very process, which our supervisor watches. (RQ's forking worker would add a process that nobody does.)"""

    on_stop: Callable[[], None]

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        self.on_stop()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]


class Desk:
    """Where tasks for clerks are put and taken. Calls block."""

    def __init__(self, url: str) -> None:
        """The server need not be there yet. Raises SettingsError for a bad URL."""
        self._url = url
        try:
            self._connection = Redis.from_url(url, socket_timeout=_REPLY_S, socket_connect_timeout=_REPLY_S)
        except ValueError:
            # Its text may hold a part of the URL, and the URL a password.
            why = "HEADRACE_RQ_URL, or else HEADRACE_REDIS_URL, must be a redis://, rediss:// or unix:// URL with a valid port and database"
            raise SettingsError(why) from None
        self._queue = _queue(self._connection)

    def work_on(self, batch_id: str) -> None:
        """Have a clerk look at a batch. Raises QueueUnavailable."""
        self._put(_WORK_ON, batch_id)

    def sweep(self) -> None:
        """Have a clerk clear away what nobody needs any more. Raises QueueUnavailable."""
        self._put(_SWEEP)

    def _put(self, function: str, *arguments: str) -> None:
        with _translating():
            self._queue.enqueue_call(function, args=arguments, timeout=_NO_TIMEOUT, result_ttl=0, failure_ttl=_FAILURE_TTL_S)

    def waiting(self) -> int:
        """Tasks that no clerk has taken. Raises QueueUnavailable."""
        with _translating():
            return int(self._queue.count)

    def serve(self, on_stop: Callable[[], None]) -> None:
        """Take tasks, one at a time, until SIGTERM or SIGINT; `on_stop` is called from the signal handler.

        Returns early on a fault, which RQ has logged, or raises QueueUnavailable.
        """
        connection = Redis.from_url(self._url)
        try:
            with _translating():
                worker = _Worker([_queue(connection)], connection=connection, serializer=JSONSerializer)
                worker.on_stop = on_stop
                worker.work(logging_level="WARNING")
        finally:
            connection.close()
            # RQ's handler would raise into whatever runs after it.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda _number, _frame: on_stop())

    def close(self) -> None:
        self._connection.close()


def _queue(connection: Redis) -> Queue:
    return Queue(_NAME, connection=connection, serializer=JSONSerializer)


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise QueueUnavailable(f"the clerks' task queue did not answer: {error}") from error
