"""What clerks are asked to do, by dotted name. The process that runs them has said who its clerk is."""

import asyncio
from contextvars import ContextVar
from typing import Protocol


class Office(Protocol):
    """What a task needs of its process."""

    async def work_on(self, batch_id: str) -> None: ...

    async def sweep(self) -> None: ...


OFFICE: ContextVar[Office] = ContextVar("office")


def work_on(batch_id: str) -> None:
    try:
        asyncio.run(OFFICE.get().work_on(batch_id))
    except Exception as error:
        error.add_note(f"batch {batch_id}")  # RQ logs the traceback, and knows nothing of batches
        raise


def sweep() -> None:
    asyncio.run(OFFICE.get().sweep())
