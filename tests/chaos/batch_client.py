"""The client of one batch: uploads, creates, looks now and then, cancels if it is to, and reads both files at the end."""

import asyncio
import random
import time
from typing import Any

import httpx
import orjson

from tests.chaos.batch_history import BatchEnd, BatchRecord, Result
from tests.chaos.batch_orders import BatchKind, BatchOrder
from tests.chaos.caller import Caller
from tests.chaos.replicas import GaveUp, Replicas

POLL_S = 0.4
PEEPS = 0.3
"""How often a stranger asks for it, at a look."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
REPEATS = 2
LINE_ID = "batch_req_"


class BatchClient:
    """`patience_s`: how long the batch may take without that a line of it ends."""

    def __init__(self, replicas: Replicas, order: BatchOrder, patience_s: float) -> None:
        self.record = BatchRecord(order)
        self._order = order
        self._patience_s = patience_s
        self._caller = Caller(replicas, order, self.record, patience_s)
        self._rng = random.Random(order.seed)

    async def run(self) -> BatchRecord:
        try:
            await self._carry_out()
        except GaveUp as error:
            self.record.gave_up = str(error)
        return self.record

    async def _carry_out(self) -> None:
        batch = (await asyncio.gather(*(self._create() for _ in range(REPEATS))))[0]
        done, moved_at = 0, time.monotonic()
        while batch["status"] not in ENDED:
            if time.monotonic() - moved_at > self._patience_s:
                raise GaveUp(f"batch {batch['id']} is {batch['status']} with {done} lines done, and stands still")
            await asyncio.sleep(POLL_S)
            batch = await self._look(batch["id"])
            if (now_done := batch["request_counts"]["completed"] + batch["request_counts"]["failed"]) != done:
                done, moved_at = now_done, time.monotonic()
            if self._order.kind is BatchKind.CANCELLED and done and not self.record.cancels:
                await self._cancel(batch["id"])
        self.record.end = _end(batch)
        self.record.output = await self._file(batch["output_file_id"])
        self.record.errors = await self._file(batch["error_file_id"])

    async def _create(self) -> Any:
        """Under one key each, so that it makes one file and one batch."""
        upload = {"file": ("input.jsonl", self._order.content)}
        file = (await self._caller.call("POST", "/v1/files", key=self._order.key, files=upload, data={"purpose": "batch"})).json()
        body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return self._named(await self._caller.call("POST", "/v1/batches", key=self._order.key, json=body))

    async def _look(self, batch_id: str) -> Any:
        batch = self._named(await self._caller.call("GET", f"/v1/batches/{batch_id}"))
        if batch["status"] not in ENDED and batch["output_file_id"] is not None:
            self.record.glimpses.append(await self._file(batch["output_file_id"]))
        if self._rng.random() < PEEPS:
            await self._peep(batch)
        return batch

    async def _peep(self, batch: Any) -> None:
        paths = [("GET", f"/v1/batches/{batch['id']}"), ("POST", f"/v1/batches/{batch['id']}/cancel")]
        if batch["output_file_id"] is not None:
            paths.append(("GET", f"/v1/files/{batch['output_file_id']}/content"))
        await self._caller.peep(*self._rng.choice(paths))

    async def _cancel(self, batch_id: str) -> None:
        """Repeated after a lost answer it may come too late, which says no more than a look does."""
        response = await self._caller.call("POST", f"/v1/batches/{batch_id}/cancel", late=True)
        self.record.cancels.append(self._named(response)["status"] if response.is_success else "late")

    async def _file(self, file_id: str | None) -> tuple[Result, ...]:
        if file_id is None:
            return ()
        content = (await self._caller.call("GET", f"/v1/files/{file_id}/content")).content
        return tuple(_result(line) for line in content.splitlines())

    def _named(self, response: httpx.Response) -> Any:
        batch = response.json()
        self.record.batch_ids.append(batch["id"])
        return batch


def _end(batch: Any) -> BatchEnd:
    counts, faults = batch["request_counts"], (batch["errors"] or {"data": []})["data"]
    return BatchEnd(
        status=batch["status"],
        counts=(counts["total"], counts["completed"], counts["failed"]),
        output_tokens=batch["usage"]["output_tokens"],
        faults=tuple((fault["line"], fault["code"]) for fault in faults),
    )


def _result(data: bytes) -> Result:
    line = orjson.loads(data)
    custom_id, job_id = line["custom_id"], line["id"].removeprefix(LINE_ID)
    body = line["response"] and line["response"]["body"]
    if error := line["error"] or body.get("error"):
        return Result(custom_id, job_id, code=error["code"])
    [choice] = body["choices"]
    text, tokens = choice["message"]["content"], body["usage"]["completion_tokens"]
    return Result(custom_id, job_id, text, choice["finish_reason"], tokens)
