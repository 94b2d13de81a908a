"""A queue that can be cut off from its submitters, and adapters whose answers can get lost."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from headrace.cursor import LogPosition
from headrace.errors import QueueUnavailable
from headrace.job import Job, LogEntry
from headrace.load import Load
from headrace.ports import Accepted, Doorbell, Submission
from headrace.state import State
from headrace.testing.queue.memory import MemoryQueue
from headrace.worker_status import WorkerStatus


class CutQueue(MemoryQueue):
    """A MemoryQueue behind a connection that breaks on demand. Only the submitter's side is cut: workers have connections of their own."""

    down = False
    """Nothing gets through, and callers are told so."""
    reads = 0
    """Calls of read_logs that got through."""

    async def ping(self) -> None:
        self._reach()

    async def accept(self, submission: Submission) -> Accepted:
        self._reach()
        return await super().accept(submission)

    async def get(self, tenant: str, job_id: str) -> Job:
        self._reach()
        return await super().get(tenant, job_id)

    async def list_jobs(self, tenant: str, *, after: str | None, limit: int) -> list[Job]:
        self._reach()
        return await super().list_jobs(tenant, after=after, limit=limit)

    async def read_logs(self, wants: Sequence[tuple[str, LogPosition]], limit: int) -> list[list[LogEntry]]:
        self._reach()
        self.reads += 1
        return await super().read_logs(wants, limit)

    async def cancel(self, tenant: str, job_id: str) -> State:
        self._reach()
        return await super().cancel(tenant, job_id)

    async def attend(self, job_ids: Sequence[str]) -> None:
        self._reach()
        await super().attend(job_ids)

    @asynccontextmanager
    async def log_doorbell(self) -> AsyncIterator[Doorbell]:
        self._reach()
        async with super().log_doorbell() as bell:
            yield bell

    async def load(self) -> Load:
        self._reach()
        return await super().load()

    async def workers(self) -> list[WorkerStatus]:
        self._reach()
        return await super().workers()

    async def swept_ms_ago(self) -> int | None:
        self._reach()
        return await super().swept_ms_ago()

    def _reach(self) -> None:
        if self.down:
            raise QueueUnavailable("cut off")


def lose_replies(adapter: object, method: str, count: int) -> None:
    """The next `count` calls of a method are carried out but reported as failed."""
    carry_out = getattr(adapter, method)
    left = count

    async def reply(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        answer = await carry_out(*args, **kwargs)
        if left:
            left -= 1
            raise QueueUnavailable("the connection broke before the answer came")
        return answer

    setattr(adapter, method, reply)


def cut_off(adapter: object, *methods: str) -> None:
    """From now on nothing gets through to these methods, and callers are told so."""

    async def refuse(*_: Any, **__: Any) -> Any:
        raise QueueUnavailable("cut off")

    for method in methods:
        setattr(adapter, method, refuse)
