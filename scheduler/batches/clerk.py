"""The clerk: takes a batch that is due, does what its status calls for, and gives it back."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from errno import ENOENT
from typing import NamedTuple

from headrace.batch import BATCH_ENDED, BatchStatus, LineFault, Progress
from headrace.batch_ports import NO_FILE, BatchUpdate
from headrace.errors import BatchLeaseLost, FileNotKnown, LogUnavailable, ModelUnavailable, QueueFull, QueueUnavailable
from headrace.files.workspace import Workspace
from headrace.ids import made_file_id
from scheduler.batches.assemble import assemble
from scheduler.batches.hold import LEASE_MS, Hold, Stopped
from scheduler.batches.lines import Input, index_anew, open_input
from scheduler.batches.resources import Resources
from scheduler.batches.run import Runner
from scheduler.batches.topic_input import Copied, InputRefused, copy_input
from scheduler.batches.validate import Validator

logger = logging.getLogger(__name__)

MODEL_RETRY_MS = 2_000
FAULT_RETRY_MS = 5_000
LOG_RETRY_MS = 10_000
"""Before a batch is tried again whose work met an absent model, a full disk, or no Kafka, which takes a clerk some seconds to find."""


class _Left(NamedTuple):
    """How a batch is given back."""

    delay_ms: int = 0
    """In which there is more to do."""
    wants_log: bool = False


class Clerk:
    """Works on one batch at a time."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def work_on(self, batch_id: str, until: Callable[[], bool]) -> None:
        """Bring a batch as far as it will go; `until` says when others should have a turn. Does nothing if somebody else holds it.

        What can be cured by time (a store or disk that is away) is logged and left for the next turn.
        """
        try:
            lease = await self._resources.batches.acquire(batch_id, secrets.token_hex(8), LEASE_MS)
            if lease is None:
                return
            hold = Hold(self._resources.batches, lease, self._resources.clock)
            left = await self._work(hold, until)
            await hold.release(left.delay_ms, wants_log=left.wants_log)
        except BatchLeaseLost:
            logger.info("batch %s was taken over by another clerk, or the state store has lost it", batch_id)
        except (QueueUnavailable, QueueFull) as error:
            logger.warning("batch %s waits for the state store: %s", batch_id, error)

    async def _work(self, hold: Hold, until: Callable[[], bool]) -> _Left:
        batch_id, began = hold.batch.new.id, self._resources.clock()
        workspace = Workspace(self._resources.root, batch_id)
        try:
            if hold.batch.status is BatchStatus.VALIDATING:
                await self._validate(hold, workspace)
            if hold.batch.status not in BATCH_ENDED:
                await self._run(hold, workspace, until)
        except ModelUnavailable as error:
            logger.warning("batch %s waits for its model: %s", batch_id, error)
            return _Left(MODEL_RETRY_MS)
        except LogUnavailable as error:
            self._resources.rest.note(error, began=began, now=self._resources.clock())
            logger.warning("batch %s waits for Kafka: %s", batch_id, error)
            return _Left(LOG_RETRY_MS, wants_log=True)
        except Stopped:
            logger.info("batch %s is left to another clerk: this one was told to stop", batch_id)
        except OSError as error:
            logger.error("batch %s cannot go on for now: %s", batch_id, error)
            return _Left(FAULT_RETRY_MS)
        return _Left()

    async def _validate(self, hold: Hold, workspace: Workspace) -> None:
        resources, new = self._resources, hold.batch.new
        if self._closed(hold):
            why = "The completion window closed before the input could be checked."
            await self._refuse(hold, workspace, (LineFault(code="batch_expired", message=why),))
            return
        workspace.create()
        try:
            copied = await self._provide(hold, workspace)
        except InputRefused as error:
            await self._refuse(hold, workspace, (error.fault,))
            return
        validator = Validator(new.endpoint, resources.prompters, resources.limits)
        with workspace.input.open("rb") as file:
            for _ in validator.read(file, workspace.input.stat().st_size):
                await hold.renew_if_due()
        if faults := validator.faults if copied is None else copied.located(validator.faults):
            await self._refuse(hold, workspace, tuple(faults))
            return
        await asyncio.to_thread(validator.index.save, workspace.index)
        progress = replace(hold.batch.progress, total=len(validator.index))
        await hold.update(BatchUpdate(progress=progress, model=validator.model, status=BatchStatus.IN_PROGRESS))
        logger.info("batch %s has %d requests", new.id, len(validator.index))

    async def _provide(self, hold: Hold, workspace: Workspace) -> Copied | None:
        """Put the input into the workspace; what it was copied from, if that is a topic. Raises InputRefused, LogUnavailable, OSError."""
        new, copied = hold.batch.new, None
        if new.input_topic is not None:
            copied = await copy_input(self._resources, hold, new.input_topic)
            await hold.renew()  # as in there: it may be somebody else's input by now
            workspace.input.unlink(missing_ok=True)
        try:
            await asyncio.to_thread(self._resources.blobs.borrow, new.input_file_id, workspace.input)
        except FileNotKnown:
            why = "The input file was deleted before it could be read."
            raise InputRefused(LineFault(code="input_file_missing", message=why, param="input_file_id")) from None
        return copied

    async def _refuse(self, hold: Hold, workspace: Workspace, faults: tuple[LineFault, ...]) -> None:
        await hold.update(BatchUpdate(faults=faults, status=BatchStatus.FAILED))
        logger.info("batch %s is refused: %d faults, the first: %s", hold.batch.new.id, len(faults), faults[0].code)
        await asyncio.to_thread(workspace.remove)

    async def _run(self, hold: Hold, workspace: Workspace, until: Callable[[], bool]) -> None:
        total = hold.batch.progress.total
        found = open_input(workspace, total) or await self._restore(hold, workspace)
        if found is None:
            await self._give_up(hold, workspace)
            return
        with closing(found) as lines:
            journal = await hold.keep(asyncio.to_thread(self._resources.journals.latest, workspace.journal))
            if hold.batch.status is not BatchStatus.FINALIZING:
                runner = Runner(self._resources, hold, lines, journal)
                await runner.run(until)
                if not runner.finished:
                    return
                # Should a cancel have come first, this is not taken.
                await hold.update(BatchUpdate(status=BatchStatus.FINALIZING))
            await assemble(self._resources, hold, lines, journal)
        logger.info("batch %s is %s: %s", hold.batch.new.id, hold.batch.status, hold.batch.progress)
        await asyncio.to_thread(workspace.remove)

    async def _restore(self, hold: Hold, workspace: Workspace) -> Input | None:
        """The input, read again from what is left of the workspace or from the uploaded file; None if it is gone, or was never read.

        Results that were lost with the workspace are missing: those that the queue still has are collected again, the others are lost.
        Raises OSError while the window is open and there is no input: a disk that is away may come back.
        """
        batch, total = hold.batch, hold.batch.progress.total
        if not total:
            return None
        workspace.create()
        for _attempt in range(2):
            if workspace.input.exists():
                await hold.keep(asyncio.to_thread(index_anew, workspace, self._resources.limits.line_bytes))
                if (found := open_input(workspace, total)) is not None:
                    logger.error("batch %s has lost working files; its input was read again", batch.new.id)
                    return found
            workspace.input.unlink(missing_ok=True)
            with suppress(FileNotKnown):
                await asyncio.to_thread(self._resources.blobs.borrow, batch.new.input_file_id, workspace.input)
        if batch.status is BatchStatus.CANCELLING or self._closed(hold):
            return None
        raise FileNotFoundError(ENOENT, "the batch's files are gone, and so is its input", str(workspace.folder))

    async def _give_up(self, hold: Hold, workspace: Workspace) -> None:
        """End a batch that has no input: cancelled before it was read, or with all its files lost."""
        batch, total = hold.batch, hold.batch.progress.total
        if total:
            fault = LineFault(code="files_lost", message="The batch's input and its working files are gone, and with them its answers.")
            await hold.update(BatchUpdate(progress=Progress(total=total, failed=total), faults=(fault,), output_file_id=NO_FILE))
            with suppress(FileNotKnown):
                await self._resources.files.remove(batch.new.tenant, made_file_id(batch.new.id, "output"))
        cancelled = batch.status is BatchStatus.CANCELLING
        for status in (BatchStatus.CANCELLED,) if cancelled else (BatchStatus.FINALIZING, BatchStatus.EXPIRED):
            await hold.update(BatchUpdate(status=status))
        logger.warning("batch %s is %s without its files", batch.new.id, hold.batch.status)
        await asyncio.to_thread(workspace.remove)

    def _closed(self, hold: Hold) -> bool:
        return self._resources.now_ms() >= hold.batch.expires_ms
