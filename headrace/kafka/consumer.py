"""Reading the log as a member of a group: one thread owns the client, which is synchronous and not thread-safe; the records go to asyncio.

    thread:   poll → deliver → commit what is done → pause and resume          every POLL_MS, with all partitions paused too
    asyncio:  batch() → work in any order → done(record)

A record is delivered again, here or elsewhere, unless a commit covers it: at least once. The members' partitions move cooperatively, so a
rebalance stops only what changes hands; of a partition that is taken away the prefix that is done is committed first.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

from kafka import AsyncConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError, LogTruncationError, NoOffsetForPartitionError, OffsetOutOfRangeError

from headrace.kafka.lenient import open_consumer
from headrace.kafka.log_record import LogRecord
from headrace.kafka.places import Identities, read_from_beginning, read_from_what_is_left
from headrace.kafka.standing import Standing
from headrace.kafka.window import Arrival, Partition, Water, Windows

logger = logging.getLogger(__name__)

POLL_MS = 100
COMMIT_S = 0.5
"""Between two commits. What is not committed is done again after a crash, which is harmless and costs a call of the store each."""
LOOK_S = 2.0
"""Between two looks at the ends of the partitions: how far behind we are, and whether the broker is there at all. Polling does not tell."""
METADATA_MS = 5_000
"""Between two looks which topics there are, and whether they are still the same."""
ANSWER_MS = 3_000
"""A broker that has not answered for this long counts as gone."""
RETRY_S = 1.0
IDLE_S = 15.0
"""Without a partition, after which it is told: joining takes about half of it."""
CLOSE_MS = 1_500

WATER = Water(high=256, low=64, high_bytes=32 << 20, low_bytes=8 << 20)

_CLIENT: Mapping[str, Any] = MappingProxyType(
    {
        "enable_auto_commit": False,
        # Where to read on is our choice: `headrace/kafka/places.py`.
        "auto_offset_reset": "none",
        "metadata_max_age_ms": METADATA_MS,
        "partition_assignment_strategy": [CooperativeStickyAssignor],
        # A fetch session can stop returning a partition for good.
        "enable_incremental_fetch_sessions": False,
        "bootstrap_timeout_ms": ANSWER_MS,
        # A poll takes all that was fetched: of several partitions paused half-way, the client goes on with one and forgets the others.
        # What is in flight beyond high water is bounded by the bytes of a fetch instead; a larger record comes alone.
        "max_poll_records": 1 << 30,
        "max_partition_fetch_bytes": 256 << 10,
        "fetch_max_bytes": 8 << 20,
        "fetch_max_wait_ms": POLL_MS,
    }
)


class LogConsumer:
    """A member of `group` that reads `topics`. `options` say how to connect: `headrace/kafka/address.py`."""

    def __init__(
        self, options: Mapping[str, Any], *, topics: Sequence[str], group: str, water: Water = WATER, session_ms: int = 10_000
    ) -> None:
        self._options = {
            **_CLIENT,
            **options,
            "group_id": group,
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": session_ms // 5,
            "request_timeout_ms": session_ms,
            # How long a rebalance waits for a member, and a little longer a member for its answer: 5 minutes as it comes, all of which a
            # connection that swallowed the answer costs. We poll far more often than this.
            "max_poll_interval_ms": 2 * session_ms,
        }
        self._topics = tuple(topics)
        self._identities = Identities(topics)
        self._missing: list[str] = []
        self._remade: set[str] = set()
        """Topics that are to be read from their beginning once they are ours."""
        self._idle_since: float | None = None
        """No partition is ours; infinity once that was told."""
        self._windows = Windows(water)
        self._lock = threading.Lock()
        """Guards the windows: the client tells of revoked partitions in a thread of its own."""
        self._batches: asyncio.Queue[list[LogRecord]] = asyncio.Queue()
        """Bounded by the windows, which pause the partitions: nothing is fetched that would not fit."""
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lag: Mapping[Partition, int] | None = None
        """As last seen; None while no partition is ours, or the broker does not answer."""

    # asyncio's side

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def start(self) -> None:
        """Must be called from the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="kafka-consumer", daemon=True)
        self._thread.start()

    async def batch(self) -> list[LogRecord]:
        """The next records, as they come; waits for some."""
        return await self._batches.get()

    def done(self, record: LogRecord) -> None:
        """It needs no further work. Records may be done in any order, and after their partition has gone to somebody else."""
        with self._lock:
            self._windows.done(record.partition, record.offset)

    @property
    def standing(self) -> Standing:
        with self._lock:
            paused, in_flight = self._windows.paused, self._windows.in_flight
        lag = self._lag
        return Standing(reachable=lag is not None and not self._missing, lag=lag or {}, paused=paused, in_flight=in_flight)

    async def aclose(self) -> None:
        """Commit what is done and leave the group; a few seconds at most, wherever the broker is."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    # The thread's side

    def _run(self) -> None:
        """Whatever is raised, reading begins anew: a thread that ended would look like a log that is empty."""
        told = False
        while not self._stop.is_set():
            try:
                consumer = open_consumer(**self._options)
            except Exception as error:  # noqa: BLE001 - whatever it is, reading must begin anew
                if not told:
                    logger.warning("the log's broker is unreachable, trying on: %s", error)
                told = True
                self._stop.wait(RETRY_S)
                continue
            told = False
            try:
                consumer.subscribe(topics=self._topics, listener=_Listener(self, consumer))
                self._serve(consumer)
            except Exception as error:  # noqa: BLE001 - whatever it is, reading must begin anew
                logger.warning("reading the log begins anew: %s: %s", type(error).__name__, error)
                self._stop.wait(RETRY_S)
            finally:
                self._abandon(consumer)

    def _serve(self, consumer: KafkaConsumer) -> None:
        committed_at = looked_at = float("-inf")
        while not self._stop.is_set():
            # Before what comes is delivered, or low offsets of a new topic would be taken for known.
            self._look_for_new_topics(consumer)
            self._deliver(self._poll(consumer))
            now = time.monotonic()
            if now - committed_at >= COMMIT_S:
                self._commit(consumer)
                committed_at = now
            if now - looked_at >= LOOK_S:
                self._look(consumer)
                looked_at = time.monotonic()
            self._hold_back(consumer)
        self._commit(consumer)

    def _poll(self, consumer: KafkaConsumer) -> Mapping[TopicPartition, Sequence[Any]]:
        try:
            found: Mapping[TopicPartition, Sequence[Any]] = consumer.poll(timeout_ms=POLL_MS)
        except NoOffsetForPartitionError as error:  # nobody has read it yet
            consumer.seek_to_beginning(*error.args[0])
        except OffsetOutOfRangeError as error:
            for place, position in error.args[0].items():
                self._go_on(consumer, place, position)
        except LogTruncationError as error:
            # A replica without the last records leads now: behind where they part, it has others under the same offsets.
            for place, divergent in error.divergent_offsets.items():
                logger.warning("%s/%d has lost its last records, and goes on at %s", place.topic, place.partition, divergent)
                self._renew([place])
                if divergent is None:
                    consumer.seek_to_beginning(place)
                else:
                    consumer.seek(place, divergent)
        else:
            return found
        return {}

    def _go_on(self, consumer: KafkaConsumer, place: TopicPartition, position: int) -> None:
        """Where the broker has nothing at `position`. Raises KafkaError."""
        first = consumer.beginning_offsets([place], timeout_ms=ANSWER_MS)[place]
        if position < first:
            read_from_what_is_left(consumer, place, position, first)
        else:
            self._begin_anew(consumer, [place])

    def _begin_anew(self, consumer: KafkaConsumer, places: Sequence[TopicPartition]) -> None:
        self._renew(places)
        read_from_beginning(consumer, places)

    def _renew(self, places: Sequence[TopicPartition]) -> None:
        """What is in flight of them is worked on to its end, and delivered once more if it is still there."""
        ours = [Partition(*place) for place in places]
        with self._lock:
            self._windows.revoke(ours)
            self._windows.assign(ours)

    def _deliver(self, found: Mapping[TopicPartition, Sequence[Any]]) -> None:
        batch: list[LogRecord] = []
        for place, raw in found.items():
            records = {one.offset: LogRecord.of(one) for one in raw}
            with self._lock:
                arrivals = [Arrival(offset, record.size) for offset, record in records.items()]
                batch += [records[offset] for offset in self._windows.deliver(Partition(*place), arrivals)]
        if batch and self._loop is not None:
            self._loop.call_soon_threadsafe(self._batches.put_nowait, batch)

    def _commit(self, consumer: KafkaConsumer) -> None:
        """A commit that fails is made again, or covered by a later one; in a rebalance it is the new owner's business."""
        with self._lock:
            due = self._windows.due
        if not due:
            return
        try:
            consumer.commit(_offsets(due), timeout_ms=ANSWER_MS)
        except KafkaError as error:
            logger.debug("what is done is committed later: %s: %s", type(error).__name__, error)
            return
        with self._lock:
            self._windows.committed(due)

    def _look(self, consumer: KafkaConsumer) -> None:
        with self._lock:
            ours = sorted(self._windows.partitions)
        self._look_for_topics(consumer)
        _see_join_to_its_end(consumer)
        if not ours:
            self._lag = None
            self._note_idle()
            return
        self._idle_since = None
        try:
            ends = consumer.end_offsets([TopicPartition(*one) for one in ours], timeout_ms=ANSWER_MS)
            lag = {one: self._behind(consumer, one, ends[TopicPartition(*one)]) for one in ours}
            if shorter := [TopicPartition(*one) for one, behind in lag.items() if behind < 0]:
                self._begin_anew(consumer, shorter)
        except KafkaError as error:
            if self._lag is not None:
                logger.warning("the log's broker does not answer: %s", error)
            self._lag = None
            return
        if self._lag is None:
            logger.info("reads %d partitions of the log", len(ours))
        self._lag = {one: max(0, behind) for one, behind in lag.items()}

    def _note_idle(self) -> None:
        """Said once: others may have them all, or the group does not answer."""
        now = time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        elif self._idle_since + IDLE_S <= now:
            logger.warning("no partition of the log has been given to this process for %.0f s", IDLE_S)
            self._idle_since = float("inf")

    def _look_for_topics(self, consumer: KafkaConsumer) -> None:
        missing = self._identities.missing(consumer)
        if missing and missing != self._missing:
            logger.warning("the brokers have no topic %s; `headrace kafka init` makes what is missing", ", ".join(missing))
        if self._missing and not missing:
            logger.info("the topics are there again")
        self._missing = missing

    def _look_for_new_topics(self, consumer: KafkaConsumer) -> None:
        """Topics that were made again since they were given to us."""
        self._remade |= self._identities.made_anew(consumer)
        if not self._remade:
            return
        with self._lock:
            ours = [TopicPartition(*one) for one in self._windows.partitions if one.topic in self._remade]
        # While a topic is away its partitions are nobody's.
        if ours:
            self._begin_anew(consumer, ours)
            self._remade -= {place.topic for place in ours}

    def _behind(self, consumer: KafkaConsumer, one: Partition, end: int) -> int:
        """Below zero of a partition that ends before where we are: not every broker refuses to be read there, or tells topics apart.
        Fetches tell the end too, while the partition is not paused; not every broker counts right when it is asked for ends alone."""
        place = TopicPartition(*one)
        position: int = consumer.position(place, timeout_ms=ANSWER_MS)
        fetched: int | None = consumer.highwater(place)
        return max(0, end - position) if fetched is None else max(end, fetched) - position

    def _hold_back(self, consumer: KafkaConsumer) -> None:
        """Every time around, as a rebalance forgets what was paused."""
        with self._lock:
            wanted = {TopicPartition(*one) for one in self._windows.paused}
        assigned, paused = consumer.assignment() or set(), consumer.paused()
        if pause := (wanted & assigned) - paused:
            consumer.pause(*pause)
        if resume := (paused & assigned) - wanted:
            consumer.resume(*resume)

    def _abandon(self, consumer: KafkaConsumer) -> None:
        try:
            consumer.close(autocommit=False, timeout_ms=CLOSE_MS)
        except Exception as error:  # noqa: BLE001 - it is given up, whatever it says to that
            logger.info("left the log without a word: %s", error)
        self._forget(self._windows.partitions)
        self._lag = None

    # The client's own thread

    def _take(self, partitions: Collection[Partition]) -> None:
        with self._lock:
            self._windows.assign(partitions)

    def _forget(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        with self._lock:
            return self._windows.revoke(partitions)


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no annotations
    """Called on the client's own event loop, which must not be blocked."""

    def __init__(self, owner: LogConsumer, consumer: KafkaConsumer) -> None:
        self._owner = owner
        self._consumer = consumer

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._owner._take([Partition(*one) for one in assigned])

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        due = self._owner._forget([Partition(*one) for one in revoked])
        if not due:
            return
        try:
            await self._consumer.commit_async(_offsets(due))
        except KafkaError as error:  # the next owner does again what this would have covered
            logger.info("given away without a commit: %s: %s", type(error).__name__, error)

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self._owner._forget([Partition(*one) for one in lost])


def _see_join_to_its_end(consumer: KafkaConsumer) -> None:
    """The client forgets a join that waits for its answer as soon as the reason for it is gone, as a topic's that went and came again. It
    is in a rebalance for ever then: without heartbeats, and none of its commits is taken."""
    coordinator = consumer._coordinator
    if coordinator.rebalance_in_progress():
        coordinator.request_rejoin()  # reason enough; to a join that is not forgotten it adds nothing


def _offsets(due: Mapping[Partition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(*one): OffsetAndMetadata(offset, "", -1) for one, offset in due.items()}
