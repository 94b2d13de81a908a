"""Judges a history. A pure function of it: what it finds wrong, with the order it happened to.

Nothing here asks the code under test what is right: the events that a log must make are written down a second time.
"""

from collections import Counter
from collections.abc import Iterator, Sequence, Set

from tests.chaos.batch_checker import batch_violations
from tests.chaos.history import ENDINGS, LIVE, Connection, Cut, Event, History, Mark, Record, Store, StoredJob, Stream
from tests.chaos.orders import Kind, Order
from tests.chaos.wrong import CALL_STATUSES, STRANGER_STATUSES, Violation, Wrong
from workers.backends.scripted import text_of

ENDS: dict[Kind, frozenset[tuple[str, str]]] = {
    **dict.fromkeys(Kind, frozenset({("done", "length")})),
    # The job may be done before the cancel comes.
    Kind.CANCEL_STREAM: frozenset({("done", "length"), ("cancelled", "cancelled")}),
    Kind.CANCEL_JOB: frozenset({("done", "length"), ("cancelled", "cancelled")}),
    Kind.LEAVE: frozenset({("done", "length"), ("cancelled", "unattended")}),
}
"""How an order may end, by its kind: state and reason."""
LEFT_ALONE = frozenset({("cancelled", "unattended")})
"""How one ends that lingers."""

ERROR_CODES = {"failed": "generation_failed", "dead": "worker_crashed", "expired": "deadline_exceeded", "cancelled": "cancelled"}
STREAM_STATUSES = frozenset({200, 429, 503})


def violations(history: History) -> list[Violation]:
    return list(_violations(history))


def _violations(history: History) -> Iterator[Violation]:
    lines = {result.job_id for record in history.batches for result in record.results}
    yield from batch_violations(history)
    yield from _check_counts(history.store)
    yield from _check_outbox(history.store, lines)
    for job in history.store.jobs.values():
        yield from _check_log(job)
    by_key: dict[str, list[StoredJob]] = {}
    for job in history.store.jobs.values():
        if job.id not in lines:
            by_key.setdefault(job.key, []).append(job)
    for record in history.records:
        jobs = by_key.pop(record.order.key, [])
        yield from _check_jobs(record, jobs)
        if len(jobs) == 1:
            yield from _check_end(record.order, jobs[0])
            yield from _check_client(record, jobs[0])
    for key in by_key:
        yield Violation(Wrong.ONE_JOB, key, "a job nobody ordered")


# What the store holds


def _check_counts(store: Store) -> Iterator[Violation]:
    for name, count in store.leftovers.items():
        if count:
            yield Violation(Wrong.COUNTS, name, f"{count} at the end")


def _check_outbox(store: Store, lines: Set[str]) -> Iterator[Violation]:
    """`lines`: ids of jobs that were lines of batches, which the store may have forgotten."""
    told = Counter(job_id for job_id, _ in store.outbox)
    for job in store.jobs.values():
        if told[job.id] != 1:
            yield Violation(Wrong.OUTBOX, job.key, f"{told[job.id]} entries")
    for job_id, state in store.outbox:
        if job_id not in store.jobs:
            if job_id not in lines:
                yield Violation(Wrong.OUTBOX, job_id, "an entry of no job")
        elif state != store.jobs[job_id].state:
            yield Violation(Wrong.OUTBOX, store.jobs[job_id].key, f"says {state}, the job {store.jobs[job_id].state}")


def _check_log(job: StoredJob) -> Iterator[Violation]:
    """Contiguous, epochs monotone, one end, which is last and counts as an entry of its own."""
    places = [(entry.epoch, entry.n) for entry in job.log]
    if places != sorted(places):
        yield Violation(Wrong.DISORDER, job.key, f"its log goes {places}")
    counted = 0
    for entry in job.log:
        if entry.end is None and entry.n != counted + len(entry.tokens):
            kind = Wrong.DOUBLED if entry.n <= counted else Wrong.LOST
            yield Violation(kind, job.key, f"its log has {entry.id} behind {counted} tokens")
        counted += len(entry.tokens)
    if counted != job.committed:
        yield Violation(Wrong.LOST, job.key, f"{counted} tokens in the log, {job.committed} in its count")
    ends = [entry for entry in job.log if entry.end is not None]
    if len(ends) != 1 or job.log[-1] is not ends[0]:
        yield Violation(Wrong.UNENDED, job.key, f"{len(ends)} ends in a log of {len(job.log)} entries, in state {job.state}")
    elif (ends[0].end, ends[0].reason, ends[0].n) != (job.state, job.reason, counted + 1):
        yield Violation(Wrong.UNENDED, job.key, f"its log ends {ends[0]}, its state is {job.state} ({job.reason})")


def _check_jobs(record: Record, jobs: Sequence[StoredJob]) -> Iterator[Violation]:
    """An accepted request is there, and its key has made one job, whatever was lost and repeated."""
    named = set(record.job_ids)
    if len(jobs) > 1 or len(named) > 1:
        yield Violation(Wrong.ONE_JOB, record.order.key, f"{len(jobs)} jobs in the store, {len(named)} told")
    if not jobs:
        what = "the store does not know it" if named else f"it was never accepted: {record.gave_up or 'no answer'}"
        yield Violation(Wrong.LOST, record.order.key, what)
    elif named and jobs[0].id not in named:
        yield Violation(Wrong.ONE_JOB, record.order.key, f"told {named}, stored {jobs[0].id}")


def _check_end(order: Order, job: StoredJob) -> Iterator[Violation]:
    if job.tenant != order.tenant:
        yield Violation(Wrong.SEEN, order.key, f"ordered by {order.tenant}, stored for {job.tenant}")
    if any(entry.choice not in range(len(order.choices)) for entry in job.log):
        yield Violation(Wrong.ALTERED, order.key, "its log holds a choice that nobody asked for")
    for choice, answer in enumerate(order.choices):
        yield from _check_choice(order.key, job, choice, answer)
    if order.poisonous:
        if job.state != "dead":
            yield Violation(Wrong.POISON_ALIVE, order.key, f"it is {job.state} ({job.reason})")
    elif job.state == "dead":
        yield Violation(Wrong.INNOCENT_DEAD, order.key, job.reason)
    elif (job.state, _reason(order, job)) not in (LEFT_ALONE if order.lingers else ENDS[order.kind]):
        yield Violation(Wrong.UNENDED, order.key, f"a {order.kind} order is {job.state} ({job.reason})")


def _check_choice(who: str, job: StoredJob, choice: int, answer: tuple[int, ...]) -> Iterator[Violation]:
    tokens = tuple(token for entry in job.log if entry.choice == choice for token in entry.tokens)
    text = _text(job, choice)
    if tokens != answer[: len(tokens)] or not text_of(answer).startswith(text):
        yield Violation(Wrong.ALTERED, who, f"its log holds {tokens}")
    elif job.state == "done" and (tokens, text) != (answer, text_of(answer)):
        yield Violation(Wrong.LOST, who, f"done with {len(tokens)} of {len(answer)} tokens")


def _text(job: StoredJob, choice: int) -> str:
    return "".join(entry.text for entry in job.log if entry.choice == choice)


def _reason(order: Order, job: StoredJob) -> str:
    """The one reason for which all its choices have ended, or all of them."""
    reasons = job.reason.split(",")
    return reasons[0] if job.state == "done" and len(reasons) == len(order.choices) and len(set(reasons)) == 1 else job.reason


# What the client saw


def _check_client(record: Record, job: StoredJob) -> Iterator[Violation]:
    who = record.order.key
    if record.gave_up:
        yield Violation(Wrong.LATE, who, f"its client gave up: {record.gave_up}")
    elif not _has_its_answer(record):
        yield Violation(Wrong.LOST, who, "its client was told no job, or no end of it")
    for status in record.statuses:
        if status not in CALL_STATUSES:
            yield Violation(Wrong.STATUS, who, f"{status}")
    for status in record.strangers:
        if status not in STRANGER_STATUSES:
            yield Violation(Wrong.SEEN, who, f"{status} for another tenant")
    expected = events_of(job, record.order)
    for stream in record.streams:
        yield from _check_stream(record, stream, expected)
    yield from _check_told(record, job)


def _check_told(record: Record, job: StoredJob) -> Iterator[Violation]:
    who = record.order.key
    if record.state is not None and record.state != job.state:
        yield Violation(Wrong.UNENDED, who, f"the client was told {record.state}, the job is {job.state}")
    for state in record.cancels:
        if state not in LIVE and state != job.state:
            yield Violation(Wrong.UNENDED, who, f"its cancel was answered with {state}, the job is {job.state}")
    if record.text is not None:
        yield from _compare(who, [record.text], [_text(job, 0)])
        if job.state == "done":
            yield from _compare(who, [record.text, *record.more], list(map(text_of, record.order.choices)))


def _has_its_answer(record: Record) -> bool:
    """Whoever left was told which job it is at least."""
    if not record.job_ids or record.order.kind is Kind.LEAVE:
        return bool(record.job_ids)
    return any(stream.ended for stream in record.streams) or (record.state is not None and record.text is not None)


def _compare(who: str, told: list[str], right: list[str]) -> Iterator[Violation]:
    if told != right:
        yield Violation(Wrong.ALTERED, who, f"the answer was {told!r} and not {right!r}")


def _check_stream(record: Record, stream: Stream, expected: Sequence[Event]) -> Iterator[Violation]:
    who, events = record.order.key, stream.events
    found = [violation for connection in stream.connections for violation in _check_connection(who, connection, expected)]
    yield from found or _check_sequence(who, events, expected[: len(events)])
    if not stream.ended and not record.gave_up and record.order.kind is not Kind.LEAVE:
        yield Violation(Wrong.LOST, who, f"its stream stopped behind {stream.seen or 'nothing'}")


def _check_connection(who: str, connection: Connection, expected: Sequence[Event]) -> Iterator[Violation]:
    if connection.status is not None and connection.status not in STREAM_STATUSES:
        yield Violation(Wrong.STATUS, who, f"{connection.status} for a stream behind {connection.after or 'nothing'}")
    if connection.status == 200 and connection.cut is Cut.SERVER and not (connection.events and connection.events[-1].mark in ENDINGS):
        yield Violation(Wrong.FALSE_END, who, f"behind {connection.events[-1].id if connection.events else 'nothing'}")
    first = 0
    if connection.after:
        first = next((i + 1 for i, event in enumerate(expected) if event.id == connection.after), len(expected))
        if again := [event for event in connection.events if _place(event.id) <= _place(connection.after)]:
            yield Violation(Wrong.DOUBLED, who, f"asked for what is behind {connection.after}, it was told {again[:2]}")
            return
    yield from _check_sequence(who, connection.events, expected[first : first + len(connection.events)])


def _check_sequence(who: str, seen: Sequence[Event], expected: Sequence[Event]) -> Iterator[Violation]:
    if list(seen) == list(expected):
        return
    ids, right = [event.id for event in seen], [event.id for event in expected]
    if len(set(ids)) < len(ids):
        kind = Wrong.DOUBLED
    elif ids == right:
        kind = Wrong.ALTERED
    elif sorted(ids, key=_place) != ids:
        kind = Wrong.DISORDER
    else:
        kind = Wrong.LOST
    at = next((i for i, (one, other) in enumerate(zip(seen, expected, strict=False)) if one != other), min(len(seen), len(expected)))
    yield Violation(kind, who, f"event {at} of a connection: saw {seen[at : at + 2]}, the log has {expected[at : at + 2]}")


def _place(event_id: str) -> tuple[int, int, int]:
    entry, _, k = event_id.partition(".")
    epoch, n = entry.split("-")
    return int(epoch), int(n), int(k or 0)


def events_of(job: StoredJob, order: Order) -> list[Event]:
    """The events of its stream, from the first to the last."""
    events = [Event(_event_id("0-0", choice), Mark.ROLE, choice=choice) for choice in range(len(order.choices))]
    for entry in job.log:
        if entry.end is None:
            events.append(Event(entry.id, Mark.TEXT, entry.text, entry.choice, entry.tokens if order.more else ()))
        elif entry.end == "done":
            reasons = entry.reason.split(",")
            events += [Event(_event_id(entry.id, choice), Mark.FINISH, reason, choice) for choice, reason in enumerate(reasons)]
            events.append(Event(_event_id(entry.id, len(reasons)), Mark.DONE))
        else:
            events.append(Event(entry.id, Mark.ERROR, ERROR_CODES[entry.end]))
    return events


def _event_id(entry_id: str, k: int) -> str:
    """Of the event `k` that an entry makes."""
    return f"{entry_id}.{k}" if k else entry_id
