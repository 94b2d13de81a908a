"""A batch that this process holds the lease of."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from headrace.batch import Batch
from headrace.batch_ports import BatchLease, BatchUpdate, BatchWork

LEASE_MS = 5_000
RENEW_S = 1.0

T = TypeVar("T")


class Stopped(Exception):
    """The process was told to stop, and what was under way is left as it is."""


class Hold:
    """Everything that a holder writes about his batch goes through here; `batch` is what the last write was answered with."""

    def __init__(self, work: BatchWork, lease: BatchLease, clock: Callable[[], float]) -> None:
        self.batch = lease.batch
        self._work = work
        self._epoch = lease.epoch
        self._clock = clock
        self._renewed = clock()

    async def update(self, update: BatchUpdate) -> Batch:
        """Raises BatchLeaseLost, QueueUnavailable."""
        self.batch = await self._work.update(self.batch.new.id, self._epoch, update, LEASE_MS)
        self._renewed = self._clock()
        return self.batch

    async def renew(self) -> Batch:
        """Raises as `update`."""
        return await self.update(BatchUpdate())

    async def renew_if_due(self) -> None:
        """Raises as `update`."""
        if self._clock() - self._renewed >= RENEW_S:
            await self.renew()

    async def keep(self, work: Awaitable[T]) -> T:
        """Await something long, and keep the lease meanwhile. Raises as `update`, but never before the work is over: a thread cannot be
        stopped, and the files it reads must not be closed under it."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait([task], timeout=RENEW_S))[0]:
                await self.renew()
        except BaseException:
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # nobody's concern any more
            raise
        return task.result()

    async def keep_until(self, stop: asyncio.Event, work: Awaitable[T]) -> T:
        """As `keep`, for work that can be cut off: it is, and Stopped raised, once `stop` is set."""
        task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
        stopping.add_done_callback(lambda _: task.cancel())
        try:
            return await self.keep(task)
        except asyncio.CancelledError:
            if not stop.is_set():
                raise
            raise Stopped from None
        finally:
            stopping.cancel()

    async def release(self, delay_ms: int, *, wants_log: bool) -> None:
        await self._work.release(self.batch.new.id, self._epoch, delay_ms, wants_log=wants_log)
