"""One client, which carries out one order and writes down everything it was told."""

import asyncio
import random
import time
from typing import Any

from tests.chaos.caller import Caller
from tests.chaos.history import LIVE, Record
from tests.chaos.orders import Kind, Order
from tests.chaos.reader import Reader
from tests.chaos.replicas import GaveUp, Replicas, bare_id

POLL_FIRST_S, POLL_LONGEST_S = 0.2, 1.0
REPEATS = 4
PEEPS = 0.3
"""How often a stranger asks for a job that runs."""


class Client:
    """`patience_s`: how long an order may stand still before it gives up."""

    def __init__(self, replicas: Replicas, order: Order, patience_s: float) -> None:
        self.record = Record(order)
        self._replicas = replicas
        self._order = order
        self._patience_s = patience_s
        self._caller = Caller(replicas, order, self.record, patience_s)
        self._rng = random.Random(order.seed)

    async def run(self) -> Record:
        try:
            await self._carry_out()
        except GaveUp as error:
            self.record.gave_up = str(error)
        return self.record

    async def _carry_out(self) -> None:
        match self._order.kind:
            case Kind.WHOLE:
                await self._whole()
            case Kind.JOB | Kind.POISON:
                await self._await_end(await self._submit())
            case Kind.CANCEL_JOB:
                job_id = await self._submit()
                await asyncio.sleep(self._rng.uniform(0, 0.5))
                await self._cancel(job_id)
                await self._await_end(job_id)
            case Kind.REPEAT:
                await self._repeat()
            case kind:
                await self._read(kind, self._reader())

    async def _read(self, kind: Kind, reader: Reader) -> None:
        match kind:
            case Kind.HOP:
                while not await reader.read(self._rng.randint(1, 8)):
                    await self._peep(reader.job_id)
            case Kind.LEAVE:
                await reader.read(self._rng.randint(1, 6))
            case Kind.CANCEL_STREAM:
                if not await reader.read(self._rng.randint(1, 8)):
                    await self._cancel(reader.job_id)
                    await reader.read()
            case _:
                await reader.read()

    def _reader(self) -> Reader:
        return Reader(self._replicas, self.record, self._patience_s)

    async def _repeat(self) -> None:
        """Many at once under one key: of jobs, or of streams that are then read side by side."""
        if self._rng.random() < 0.5:
            job_ids = await asyncio.gather(*(self._submit() for _ in range(REPEATS)))
            await self._await_end(job_ids[0])
        else:
            await asyncio.gather(*(self._reader().read() for _ in range(2)))

    async def _submit(self) -> str:
        answer = await self._post("/v1/jobs")
        job_id = self._named(answer["id"])
        await self._peep(job_id)
        return job_id

    async def _whole(self) -> None:
        answer = await self._post("/v1/chat/completions")
        self._named(answer["id"])
        self.record.state = "done"
        self.record.text, *more = _texts(answer)
        self.record.more = tuple(more)

    async def _cancel(self, job_id: str) -> None:
        answer = (await self._caller.call("POST", f"/v1/jobs/{job_id}/cancel")).json()
        self.record.cancels.append(answer["status"])
        self._named(answer["id"])

    async def _peep(self, job_id: str) -> None:
        """Now and then another tenant asks for the job, for its stream, or to cancel it."""
        if self._rng.random() >= PEEPS:
            return
        method, path = self._rng.choice((("GET", ""), ("GET", "/events"), ("POST", "/cancel")))
        await self._caller.peep(method, f"/v1/jobs/{job_id}{path}")

    async def _await_end(self, job_id: str) -> None:
        pause_s, began = POLL_FIRST_S, time.monotonic()
        while time.monotonic() - began < self._patience_s:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, POLL_LONGEST_S)
            job = (await self._caller.call("GET", f"/v1/jobs/{job_id}")).json()
            if job["status"] not in LIVE:
                self.record.state, self.record.text = job["status"], job["output_text"]
                self.record.more = tuple(_texts(job["result"])[1:]) if job["result"] else ()
                return
        raise GaveUp(f"job {job_id} has not ended within {self._patience_s:.0f} s")

    async def _post(self, path: str) -> Any:
        body = {"model": self._replicas.model, **self._order.asked}
        return (await self._caller.call("POST", path, key=self._order.key, json=body)).json()

    def _named(self, answer_id: str) -> str:
        job_id = bare_id(answer_id)
        self.record.job_ids.append(job_id)
        return job_id


def _texts(answer: Any) -> list[str]:
    """Of its choices."""
    return [choice["message"]["content"] for choice in answer["choices"]]
