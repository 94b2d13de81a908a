"""Batches on Redis or Valkey."""

import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from headrace.batch import BATCH_ENDED, BATCH_TRANSITIONS, Batch, BatchStatus, LineFault, NewBatch, Progress
from headrace.batch_ports import NO_FILE, BatchLease, BatchUpdate, Stored
from headrace.errors import BatchLeaseLost, BatchNotCancellable, BatchNotFound, SchemaUnknown
from headrace.queues.server import Command, Server
from headrace.registries.library import stored

logger = logging.getLogger(__name__)

PREFIX = "headrace:{batches}:"

_SOURCES = {status: [source for source, onward in BATCH_TRANSITIONS.items() if status in onward] for status in BatchStatus}

_BATCH = TypeAdapter(Batch)
_NEW = TypeAdapter(NewBatch)
_PROGRESS = TypeAdapter(Progress)
_FAULTS = TypeAdapter(tuple[LineFault, ...])
_JSON_FIELDS = ("new", "progress", "faults")


class RedisBatches:
    """Implements BatchRegistry and BatchWork."""

    def __init__(self, server: Server) -> None:
        self._server = server

    # Submitters

    async def create(self, new: NewBatch, *, window_ms: int, idempotency_key: str | None, body_hash: str) -> Stored:
        key = (int(idempotency_key is not None), idempotency_key or "", body_hash)
        first = BatchStatus.VALIDATING
        return stored(await self._call("create_batch", new.id, new.tenant, first, window_ms, _NEW.dump_json(new), *key))

    async def made_before(self, tenant: str, idempotency_key: str, body_hash: str) -> Stored | None:
        answer = await self._call("batch_made_before", tenant, idempotency_key, body_hash)
        return None if answer is None else stored(answer)

    async def get(self, tenant: str, batch_id: str) -> Batch:
        fields = await self._call("get_batch", tenant, batch_id)
        if not fields:
            raise _not_found(batch_id)
        return _batch(fields)

    async def list_batches(self, tenant: str, *, after: str | None, limit: int) -> list[Batch]:
        ids = await self._call("list_batches", tenant, limit, *(() if after is None else (after,)))
        if ids is None:
            raise _not_found(after or "")
        # One by one, as a batch may hold faults by the hundred. One that was purged in between is not listed.
        found = await self._server.run(*(self._command("get_batch", tenant, batch_id) for batch_id in ids))
        return [batch for fields in found if fields and (batch := _readable(fields)) is not None]

    async def cancel(self, tenant: str, batch_id: str) -> Batch:
        wanted = BatchStatus.CANCELLING
        answer, *fields = await self._call("cancel_batch", tenant, batch_id, wanted, *_SOURCES[wanted])
        if answer == b"missing":
            raise _not_found(batch_id)
        batch = _batch(fields[0])
        if answer == b"late":
            raise BatchNotCancellable(f"Batch {batch_id} is {batch.status} and cannot be cancelled any more.")
        return batch

    # Those who work on them

    async def dispatch(self, limit: int, again_ms: int) -> list[str]:
        return [batch_id.decode() for batch_id in await self._call("dispatch_batches", limit, again_ms)]

    async def acquire(self, batch_id: str, holder: str, lease_ms: int) -> BatchLease | None:
        answer = await self._call("acquire_batch", batch_id, holder, lease_ms)
        return None if answer is None else BatchLease(batch=_batch(answer[1]), epoch=int(answer[0]))

    async def update(self, batch_id: str, epoch: int, update: BatchUpdate, lease_ms: int) -> Batch:
        status = update.status
        sources = [] if status is None else _SOURCES[status]
        wanted = (status or "", int(status in BATCH_ENDED), len(sources), *sources)
        fields = await self._call("update_batch", batch_id, epoch, lease_ms, *wanted, *chain.from_iterable(_written(update).items()))
        if not fields:
            raise BatchLeaseLost(f"the lease of batch {batch_id} under epoch {epoch} is over")
        return _batch(fields)

    async def release(self, batch_id: str, epoch: int, delay_ms: int, *, wants_log: bool = False) -> None:
        await self._call("release_batch", batch_id, epoch, delay_ms, int(wants_log))

    async def purge_ended(self, limit: int, retention_ms: int) -> list[str]:
        return [batch_id.decode() for batch_id in await self._call("purge_batches", limit, retention_ms)]

    async def standing(self, batch_ids: Sequence[str]) -> list[BatchStatus | None]:
        found = await self._server.run(*(("HGET", f"{PREFIX}record:{batch_id}", "status") for batch_id in batch_ids))
        return [None if status is None else BatchStatus(status.decode()) for status in found]

    async def live(self) -> int:
        return int((await self._server.run(("ZCARD", f"{PREFIX}due")))[0])

    async def stalled(self) -> int:
        return int((await self._server.run(("SCARD", f"{PREFIX}stalled")))[0])

    def _command(self, function: str, *arguments: Any) -> Command:
        return self._server.call(function, PREFIX, *arguments)

    async def _call(self, function: str, *arguments: Any) -> Any:
        return (await self._server.run(self._command(function, *arguments)))[0]


def _not_found(batch_id: str) -> BatchNotFound:
    return BatchNotFound(f"No batch has the id {batch_id[:40]!r}.")


def _written(update: BatchUpdate) -> dict[str, str | bytes]:
    """Fields of the stored record, which are called as those of `Batch`."""
    fields = {
        "progress": None if update.progress is None else _PROGRESS.dump_json(update.progress),
        "model": update.model,
        "faults": None if update.faults is None else _FAULTS.dump_json(update.faults),
        "output_file_id": update.output_file_id,
        "error_file_id": update.error_file_id,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _batch(flat: Sequence[bytes]) -> Batch:
    """From names and values in turn. Raises SchemaUnknown."""
    fields: dict[str, Any] = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
    for name in ("output_file_id", "error_file_id"):
        fields[name] = None if fields.get(name, NO_FILE) == NO_FILE else fields[name]
    fields |= {name: orjson.loads(fields[name]) for name in _JSON_FIELDS if name in fields}
    try:
        return _BATCH.validate_python(fields)
    except ValidationError as error:
        raise SchemaUnknown(f"cannot read a stored batch: {error.errors(include_input=False)[0]['msg']}") from error


def _readable(flat: Sequence[bytes]) -> Batch | None:
    """None for what this version cannot read: one such batch must not hide the others."""
    try:
        return _batch(flat)
    except SchemaUnknown as error:
        logger.error("a batch is left out of a list: %s", error)
        return None
