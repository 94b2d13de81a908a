"""The clerks' task queue, on RQ. It only says "look at this batch": a task that is lost, doubled or late does no harm, because whoever is
given one asks the batch's lease first, and the dispatcher asks again.

RQ's own registries are not consulted: they notice a dead worker after minutes.
"""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError, RedisError, TimeoutError
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from headrace.errors import QueueUnavailable, SettingsError

logger = logging.getLogger(__name__)

_NAME = "headrace"
_WORK_ON = "scheduler.batches.tasks.work_on"
_SWEEP = "scheduler.batches.tasks.sweep"

_REPLY_S = 2.0
"""A server that has not answered for this long counts as gone. (A worker that waits for tasks has RQ's own, longer limit.)"""

_NO_TIMEOUT = -1
"""A batch's lease bounds who works on it, and `until` for how long."""
_FAILURE_TTL_S = 3_600


class _Connection(Redis):
    """A loss that RQ does not take for one leaves its loop: by itself it would look again after up to a minute, and say so each time."""

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*arguments, **options)  # type: ignore[no-untyped-call]  # redis-py has no annotation here
        except (ConnectionError, TimeoutError) as error:
            raise _unavailable(error) from error


class _Worker(SimpleWorker):
    """Runs its tasks in this very process, which our supervisor watches. (RQ's forking worker would add a process that nobody does.)"""

    on_ready: Callable[[], None]
    on_stop: Callable[[], None]

    def bootstrap(self, *arguments: Any, **options: Any) -> None:
        super().bootstrap(*arguments, **options)
        self.on_ready()

    def subscribe(self) -> None:
        """Not to RQ's commands for workers, of which we use none: its thread for them would outlive a lost server, one for each loss."""

    def unsubscribe(self) -> None:
        """There is no subscription."""

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """A loss between a task and RQ's note of its end would be logged as the task's fault, with both tracebacks."""
        if isinstance(exc_info[1], QueueUnavailable):
            logger.warning("a task was cut short, and comes again: %s", exc_info[1])
        else:
            super().handle_exception(job, *exc_info)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        self.on_stop()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]  # RQ has no annotation here


class _Losses(logging.Filter):
    """Takes the loss of the server out of what RQ logs, a hundred lines each time, and keeps it. Everything else stays."""

    def __init__(self) -> None:
        super().__init__()
        self.last: QueueUnavailable | None = None
        """What ended RQ's loop."""

    def filter(self, record: logging.LogRecord) -> bool:
        raised = record.exc_info[1] if record.exc_info else None
        if isinstance(raised, RedisError | QueueUnavailable):
            self.last = raised if isinstance(raised, QueueUnavailable) else _unavailable(raised)
            return False
        return True


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

    def waiting(self) -> list[str]:
        """Ids of the tasks that no clerk has taken; the first is taken next. Raises QueueUnavailable."""
        with _translating():
            return self._queue.get_job_ids()

    def serve(self, *, on_ready: Callable[[], None], on_stop: Callable[[], None]) -> None:
        """Take tasks, one at a time, until SIGTERM or SIGINT; `on_ready` is called before the first, `on_stop` from the signal handler.

        Returns early on a fault, which RQ has logged. Raises QueueUnavailable when the server is lost.
        """
        connection = _Connection.from_url(self._url)
        losses, log = _Losses(), logging.getLogger("rq.worker")
        log.addFilter(losses)
        try:
            with _translating():
                worker = _Worker([_queue(connection)], connection=connection, serializer=JSONSerializer)
                worker.on_ready, worker.on_stop = on_ready, on_stop
                worker.work(logging_level="WARNING")
            if losses.last is not None:
                raise losses.last
        finally:
            log.removeFilter(losses)
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
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> QueueUnavailable:
    return QueueUnavailable(f"the clerks' task queue did not answer: {error}")
