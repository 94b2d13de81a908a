"""Records of files on Redis or Valkey."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from headrace.batch_ports import Stored
from headrace.errors import FileNotKnown, SchemaUnknown
from headrace.file import FileRecord, Purpose
from headrace.queues.server import Server
from headrace.registries.library import stored

logger = logging.getLogger(__name__)

PREFIX = "headrace:{files}:"

_RECORD = TypeAdapter(FileRecord)


class RedisFiles:
    """Implements FileRegistry."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def add(self, record: FileRecord, *, idempotency_key: str | None, body_hash: str) -> Stored:
        key = (int(idempotency_key is not None), idempotency_key or "", body_hash)
        return stored(await self._call("add_file", *_arguments(record), *key))

    async def put(self, record: FileRecord) -> None:
        await self._call("put_file", *_arguments(record), int(record.batch_id is None))

    async def get(self, tenant: str, file_id: str) -> FileRecord:
        body = await self._call("get_file", tenant, file_id)
        if body is None:
            raise _not_known(file_id)
        return _record(body)

    async def list_files(
        self, tenant: str, *, purpose: Purpose | None, after: str | None, limit: int, newest_first: bool
    ) -> list[FileRecord]:
        behind = () if after is None else (after,)
        bodies = await self._call("list_files", tenant, purpose or "", limit, int(newest_first), *behind)
        if bodies is None:
            raise _not_known(after or "")
        return _readable(bodies)

    async def remove(self, tenant: str, file_id: str) -> None:
        if not await self._call("remove_file", tenant, file_id):
            raise _not_known(file_id)

    async def overdue(self, limit: int) -> list[FileRecord]:
        return _readable(await self._call("overdue_files", limit))

    async def known(self, file_ids: Sequence[str]) -> list[bool]:
        return [count == 1 for count in await self._server.run(*(("EXISTS", f"{PREFIX}record:{file_id}") for file_id in file_ids))]

    async def _call(self, function: str, *arguments: Any) -> Any:
        return (await self._server.run(self._server.call(function, PREFIX, *arguments)))[0]


def _not_known(file_id: str) -> FileNotKnown:
    return FileNotKnown(f"No file has the id {file_id[:40]!r}.")


def _arguments(record: FileRecord) -> tuple[Any, ...]:
    return record.id, record.tenant, record.purpose, "" if record.expires_ms is None else record.expires_ms, _RECORD.dump_json(record)


def _record(body: bytes) -> FileRecord:
    """Raises SchemaUnknown."""
    try:
        return _RECORD.validate_json(body)
    except ValidationError as error:
        raise SchemaUnknown(f"cannot read a stored record of a file: {error.errors(include_input=False)[0]['msg']}") from error


def _readable(bodies: Iterable[bytes]) -> list[FileRecord]:
    """A list leaves out what this version cannot read: one such record must not hide the others."""
    records = []
    for body in bodies:
        try:
            records.append(_record(body))
        except SchemaUnknown as error:
            logger.error("a file is left out of a list: %s", error)
    return records
