"""Appending to the log: one thread owns the client, which is synchronous, and is never waited for beyond a time.

    asyncio:   append → room → inbox ──┐                    ┌── settle → the caller goes on
    thread:                            └─ send … delivered ─┘

The client repairs connections by itself, but what it does to records meanwhile differs from release to release. So a failure that is not
a record's own ends the client, whatever it holds fails at once, and a new one is made when the brokers answer again. Until then appends are
refused without a wait.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from headrace.errors import LogUnavailable, RequestTooLarge
from headrace.kafka.address import Address
from headrace.kafka.client import open_client
from headrace.kafka.room import Room
from headrace.kafka.topics import MAX_RECORD_BYTES

logger = logging.getLogger(__name__)

HELD_BYTES = 64 * 1024 * 1024
"""Records on their way, at most; further ones wait for room in front of the thread."""
PROBE_S = 1.0
"""After so long without a record the brokers are asked whether they are there: /ready must know without requests."""
ANSWER_S = 2.0
"""They have this long to answer that, at least."""
ANSWER_SHARE = 0.4
"""Of the time that an append has: who gives slow brokers more than 5 s gives them more to answer that, too."""
PAUSE_S = 0.5
"""Between two attempts to reach them."""

INIT_MAKES_THEM = "; `headrace kafka init` makes them"

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class _Record:
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    size: int
    done: asyncio.Future[None]


class LogProducer:
    """Implements RequestLog. `topics` must be there for it to be up."""

    def __init__(
        self, address: Address, topics: Sequence[str], *, timeout_s: float, held_bytes: int = HELD_BYTES, remedy: str = INIT_MAKES_THEM
    ) -> None:
        """`timeout_s`: the longest that an append takes. `remedy`: what to add where a topic is missing."""
        self._address = address
        self._topics = list(topics)
        self._timeout_s = timeout_s
        self._answer_s = max(ANSWER_S, ANSWER_SHARE * timeout_s)
        self._remedy = remedy
        self._room = Room(held_bytes)
        self._inbox: queue.SimpleQueue[_Record | None] = queue.SimpleQueue()
        """None wakes the thread."""
        self._stop = threading.Event()
        self._is_left = False
        """Whoever used it has failed, and waits for no record any more."""
        self._tried = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="kafka producer", daemon=True)
        self._fault: KafkaError | None = None
        """What ended the client that the thread has now."""
        self._told: Callable[[float, bool], None] = lambda seconds, done: None
        self._down: str | None = f"{address} has not been reached yet"
        self._known_down = False
        """It was told that it is down."""

    async def __aenter__(self) -> Self:
        """Returns once the brokers answered, or did not."""
        self._thread.start()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), self._timeout_s)
        except asyncio.CancelledError:
            await self._leave()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What is on its way is given the time that an append has; none where it is left by an exception."""
        self._is_left = kind is not None
        await self._leave()

    async def _leave(self) -> None:
        self._stop.set()
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def down(self) -> str | None:
        return self._down

    def check(self) -> None:
        """Raises LogUnavailable while it is down."""
        if self._down is not None:
            raise LogUnavailable(self._down)

    def watch(self, told: Callable[[float, bool], None]) -> None:
        self._told = told

    async def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Returns once all in-sync replicas have the record. Raises RequestTooLarge if they never will; LogUnavailable, after
        `timeout_s` at most, and then it may be in the log or not."""
        started = time.perf_counter()
        try:
            await self._appended(topic, key, value, headers)
        except (LogUnavailable, RequestTooLarge):
            self._told(time.perf_counter() - started, False)
            raise
        self._told(time.perf_counter() - started, True)

    async def _appended(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        self.check()
        size = len(key or b"") + len(value or b"") + sum(len(name) + len(what) for name, what in headers)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._room.take(size)
                record = _Record(topic, key, value, headers, size, self._loop.create_future())
                self._inbox.put(record)
                await record.done
        except TimeoutError:
            raise LogUnavailable(f"{self._address} did not acknowledge a record within {self._timeout_s:g} s") from None

    def _settle(self, record: _Record, error: Exception | None) -> None:
        """The client holds it no longer."""
        self._room.give_back(record.size)
        if record.done.done():  # its caller has given up
            return
        if error is None:
            record.done.set_result(None)
        elif isinstance(error, KafkaError) and _of_the_record(error):
            record.done.set_exception(RequestTooLarge(f"The request takes {record.size} bytes in the log, which is more than it allows."))
        else:
            record.done.set_exception(LogUnavailable(f"{self._address} did not take a record: {_said(error)}"))

    # The thread's side

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._clients() as (admin, producer):
                    self._serve(admin, producer)
            except (KafkaError, LogUnavailable, OSError) as error:
                why = f"{self._address} is not reachable: {_said(error)}"
                if not self._known_down:
                    logger.warning("%s", why)
                self._note_down(why)
                self._stop.wait(PAUSE_S)
            except Exception:
                # A fault in the client must not end the thread, or nothing would be taken until the process is started anew.
                logger.exception("the client of %s failed", self._address)
                self._note_down(f"the client of {self._address} failed")
                self._stop.wait(PAUSE_S)
        self._note_down("the process stops")

    def _serve(self, admin: Any, producer: Any) -> None:
        """Until told to stop. Raises KafkaError, LogUnavailable when the clients are of no more use."""
        self._fault = None
        self._probe(admin)
        self._note_up()
        while True:
            try:
                record = self._inbox.get(timeout=PROBE_S)
            except queue.Empty:
                self._probe(admin)
                continue
            if record is not None:
                self._send(producer, record)
            if self._fault is not None:
                raise self._fault
            if record is None and self._stop.is_set():
                return

    def _send(self, producer: Any, record: _Record) -> None:
        """Raises KafkaError if the client cannot even begin."""
        if record.done.done():
            self._tell(record, None)
            return
        try:
            sent = producer.send(record.topic, record.value, key=record.key, headers=list(record.headers))
        except KafkaError as error:
            self._tell(record, error)
            if not _of_the_record(error):
                raise
            return
        sent.add_callback(lambda _: self._tell(record, None))
        sent.add_errback(lambda error: self._failed(record, error))

    def _failed(self, record: _Record, error: KafkaError) -> None:
        """In the client's own thread."""
        self._tell(record, error)
        if not _of_the_record(error):
            self._fault = error
            self._inbox.put(None)

    def _probe(self, admin: Any) -> None:
        found = {topic["name"]: topic["error_code"] for topic in admin.describe_topics(self._topics)}
        missing = [topic for topic in self._topics if found.get(topic, -1) != 0]
        if missing:
            raise LogUnavailable(f"it has no topic {', '.join(missing)}{self._remedy}")

    def _note_up(self) -> None:
        logger.info("%s takes records", self._address)
        self._down, self._known_down = None, False
        self._on_loop(self._tried.set)

    def _note_down(self, why: str) -> None:
        self._down, self._known_down = why, True
        self._on_loop(self._tried.set)
        with suppress(queue.Empty):
            while True:
                record = self._inbox.get_nowait()
                if record is not None:
                    self._tell(record, LogUnavailable(why))

    def _tell(self, record: _Record, error: Exception | None) -> None:
        self._on_loop(lambda: self._settle(record, error))

    def _on_loop(self, call: Callable[[], None]) -> None:
        # A record that outlives the process' own end has nobody left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)

    @contextmanager
    def _clients(self) -> Iterator[tuple[Any, Any]]:
        """An admin client, to ask with, and a producer. Raises KafkaError."""
        answer_ms, timeout_ms = int(self._answer_s * 1000), int(self._timeout_s * 1000)
        address = {**self._address.options(), "bootstrap_timeout_ms": answer_ms}
        with open_client(KafkaAdminClient, **address, request_timeout_ms=answer_ms) as admin:
            producer = open_client(
                KafkaProducer,
                **address,
                acks="all",
                enable_idempotence=True,
                max_request_size=MAX_RECORD_BYTES,
                max_block_ms=answer_ms,
                request_timeout_ms=timeout_ms,
                delivery_timeout_ms=timeout_ms,
            )
            try:
                yield admin, producer
            finally:
                self._close(producer)

    def _close(self, producer: Any) -> None:
        try:
            # An order to stop waits for what is on its way; after a failure the client only holds up whoever waits for it.
            producer.close(timeout=0 if self._is_left or self._fault is not None else self._timeout_s)
        except KafkaError:
            # What it could not flush keeps its thread running, and there is no other way to tell it.
            producer._sender.force_close()
            producer._sender.join(self._answer_s)


def _of_the_record(error: KafkaError) -> bool:
    """Others may go through."""
    return isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
