"""A client's view of one stream: it reads, is cut, and goes on behind the last event at whichever replica answers.

POST /v1/chat/completions ──► events … ✂ ──► GET /v1/jobs/<id>/events, Last-Event-ID: <last seen> ──► the rest

The same as `headrace.client` does, for thousands at once, and it keeps everything: what that one drops in silence is what we look for.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import httpx
import orjson

from tests.chaos.history import Connection, Cut, Event, Mark, Record, Stream
from tests.chaos.replicas import GaveUp, Replicas, bare_id, speaks_for

DONE = b"[DONE]"
NOTICEABLE_S = 0.3


class Reader:
    """Reads the answer to `record.order`, and writes what it sees into the record. `patience_s`: how long without an event."""

    def __init__(self, replicas: Replicas, record: Record, patience_s: float) -> None:
        self._replicas = replicas
        self._record = record
        self._patience_s = patience_s
        self._job_id = ""
        self._heard_at = time.monotonic()
        self.stream = Stream()
        record.streams.append(self.stream)

    @property
    def job_id(self) -> str:
        """Empty until the first event."""
        return self._job_id

    async def read(self, at_most: int | None = None) -> bool:
        """To the end: True. Or until `at_most` more events were seen: False, and the connection is dropped. Raises GaveUp."""
        wanted = None if at_most is None else len(self.stream.events) + at_most
        self._heard_at = time.monotonic()
        while True:
            connection = Connection(after=self.stream.seen)
            self.stream.connections.append(connection)
            try:
                pause_s = await self._read(connection, wanted)
            except httpx.TransportError:
                pause_s = self._replicas.pause_s
            if self.stream.ended:
                return True
            if connection.cut is Cut.CLIENT:
                return False
            if time.monotonic() - self._heard_at > self._patience_s:
                raise GaveUp(f"no event for {self._patience_s:.0f} s behind {self.stream.seen or 'nothing'}")
            await asyncio.sleep(pause_s)

    async def _read(self, connection: Connection, wanted: int | None) -> float:
        """One connection. Returns how long to wait before the next one."""
        async with self._connect(connection.after) as response:
            connection.status = response.status_code
            if response.status_code != httpx.codes.OK:
                connection.cut = Cut.SERVER
                return self._replicas.told_to_wait(response)
            async for event in self._events(response):
                self._notice()
                connection.events.append(event)
                if len(self.stream.events) == wanted:
                    connection.cut = Cut.CLIENT
                    return 0.0
            connection.cut = Cut.SERVER
            return self._replicas.pause_s

    def _connect(self, after: str) -> AbstractAsyncContextManager[httpx.Response]:
        http = self._replicas.next()
        order = self._record.order
        headers = speaks_for(order.tenant)
        if after:
            return http.stream("GET", f"/v1/jobs/{self._job_id}/events", headers={**headers, "last-event-id": after})
        body = {"model": self._replicas.model, **order.asked, "stream": True}
        return http.stream("POST", "/v1/chat/completions", json=body, headers={**headers, "idempotency-key": order.key})

    def _notice(self) -> None:
        """Pauses within a running answer are how long it took to recover from something."""
        now = time.monotonic()
        if now - self._heard_at > NOTICEABLE_S and len(self.stream.events) > 1:
            self._replicas.pauses.append((self._heard_at, now))
        self._heard_at = now

    async def _events(self, response: httpx.Response) -> AsyncIterator[Event]:
        """An event without its blank line never happened."""
        rest, event_id, data = b"", "", b""
        async for chunk in response.aiter_raw():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith(b"id: "):
                    event_id = line[4:].decode()
                elif line.startswith(b"data: "):
                    data = line[6:]
                elif not line and data:
                    yield self._event(event_id, data)
                    data = b""

    def _event(self, event_id: str, data: bytes) -> Event:
        if data == DONE:
            return Event(event_id, Mark.DONE)
        chunk = orjson.loads(data)
        if "error" in chunk:
            return Event(event_id, Mark.ERROR, chunk["error"]["code"])
        if not self._job_id:
            self._job_id = bare_id(chunk["id"])
        if self._record.job_ids[-1:] != [bare_id(chunk["id"])]:
            self._record.job_ids.append(bare_id(chunk["id"]))
        [choice] = chunk["choices"]
        if choice["finish_reason"] is not None:
            return Event(event_id, Mark.FINISH, choice["finish_reason"], choice["index"])
        if "role" in choice["delta"]:
            return Event(event_id, Mark.ROLE, "", choice["index"])
        return Event(event_id, Mark.TEXT, choice["delta"]["content"], choice["index"], tuple(choice.get("token_ids", ())))
