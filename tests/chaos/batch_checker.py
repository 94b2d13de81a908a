"""Judges what became of batches. A pure function of a history, as `checker` is for everything else.

Each line of an input must come to one line in one of two files, in the order of the input, with the one answer that it can have; and it
must have run no more than once for that.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.chaos.batch_history import BatchEnd, BatchRecord, Result
from tests.chaos.batch_orders import BatchKind, BatchOrder, Line
from tests.chaos.history import History, StoredJob
from tests.chaos.wrong import CALL_STATUSES, STRANGER_STATUSES, Violation, Wrong

ENDS = {
    BatchKind.WHOLE: frozenset({"completed"}),
    # It may be finished before the cancel comes.
    BatchKind.CANCELLED: frozenset({"completed", "cancelled"}),
    BatchKind.FAULTY: frozenset({"failed"}),
}
CRASHED, UNDONE = "worker_crashed", "batch_cancelled"
RUNS: Mapping[str, frozenset[tuple[str, ...]]] = {
    "": frozenset({("done",)}),
    CRASHED: frozenset({("dead",)}),
    UNDONE: frozenset({(), ("cancelled",)}),
}
"""Ends of a line's job in the outbox, by the code of its result; the empty one is an answer."""


class Tally(NamedTuple):
    lines: int
    lost: int
    doubled: int
    wrong: int
    disordered: int


def tally(history: History) -> Tally:
    kinds = Counter(violation.kind for violation in batch_violations(history))
    lines = sum(len(record.order.lines) for record in history.batches)
    wrong = kinds[Wrong.ALTERED] + kinds[Wrong.INNOCENT_DEAD] + kinds[Wrong.POISON_ALIVE]
    return Tally(lines, kinds[Wrong.LOST], kinds[Wrong.DOUBLED], wrong, kinds[Wrong.DISORDER])


def batch_violations(history: History) -> list[Violation]:
    return list(_violations(history))


def _violations(history: History) -> Iterator[Violation]:
    told = {batch_id for record in history.batches for batch_id in record.batch_ids}
    for batch_id in history.batch_ids - told:
        yield Violation(Wrong.ONE_BATCH, batch_id, "a batch nobody ordered")
    ends: dict[str, list[str]] = {}
    for job_id, state in history.store.outbox:
        ends.setdefault(job_id, []).append(state)
    for record in history.batches:
        yield from _check_known(record, history.batch_ids)
        yield from _check_client(record)
        if record.end is not None:
            yield from _check_end(record, record.end)
            yield from _check_results(record.order, record)
            yield from _check_glimpses(record)
            yield from _check_runs(record, ends, history.store.jobs)


def _check_known(record: BatchRecord, batch_ids: frozenset[str]) -> Iterator[Violation]:
    """What was accepted is there, and its key has made one batch."""
    named = set(record.batch_ids)
    if len(named) > 1:
        yield Violation(Wrong.ONE_BATCH, record.order.key, f"told {named}")
    if not named or not named <= batch_ids:
        yield Violation(Wrong.LOST, record.order.key, f"told {named or 'of no batch'}, and the API does not list it")


def _check_client(record: BatchRecord) -> Iterator[Violation]:
    who = record.order.key
    if record.gave_up:
        yield Violation(Wrong.LATE, who, f"its client gave up: {record.gave_up}")
    elif record.end is None:
        yield Violation(Wrong.LOST, who, "its client was told no end of it")
    for status in record.statuses:
        if status not in CALL_STATUSES:
            yield Violation(Wrong.STATUS, who, f"{status}")
    for status in record.strangers:
        if status not in STRANGER_STATUSES:
            yield Violation(Wrong.SEEN, who, f"{status} for another tenant")


def _check_end(record: BatchRecord, end: BatchEnd) -> Iterator[Violation]:
    order = record.order
    if end.status not in ENDS[order.kind]:
        yield Violation(Wrong.UNENDED, order.key, f"a {order.kind} is {end.status}")
    if "cancelling" in record.cancels and end.status != "cancelled":
        yield Violation(Wrong.UNENDED, order.key, f"its cancel was answered with cancelling, and it is {end.status}")
    faults = tuple((number, str(line.flaw)) for number, line in enumerate(order.lines, 1) if line.flaw is not None)
    if end.faults != faults:
        yield Violation(Wrong.TOTALS, order.key, f"it names the faults {end.faults} and not {faults}")
    lines = 0 if faults else len(order.lines)
    if end.counts != (lines, len(record.output), len(record.errors)):
        yield Violation(
            Wrong.TOTALS,
            order.key,
            f"counts {end.counts} of {lines} lines, {len(record.output)} in one file, {len(record.errors)} in the other",
        )
    if end.output_tokens != (tokens := sum(result.tokens for result in record.output)):
        yield Violation(Wrong.TOTALS, order.key, f"{end.output_tokens} tokens, {tokens} in the file")


def _check_results(order: BatchOrder, record: BatchRecord) -> Iterator[Violation]:
    lines = {line.custom_id: line for line in order.lines}
    times = Counter(result.custom_id for result in record.results)
    for custom_id in () if order.kind is BatchKind.FAULTY else lines:
        if times[custom_id] != 1:
            yield Violation(Wrong.DOUBLED if times[custom_id] else Wrong.LOST, custom_id, f"{times[custom_id]} times in the files")
    for result in record.results:
        if result.custom_id in lines and order.kind is not BatchKind.FAULTY:
            yield from _check_result(lines[result.custom_id], result, cancelled=bool(record.cancels))
        else:
            yield Violation(Wrong.DOUBLED, result.custom_id, "a result that may not be")
    places = {custom_id: place for place, custom_id in enumerate(lines)}
    for name, file in (("output", record.output), ("errors", record.errors)):
        found = [places[result.custom_id] for result in file if result.custom_id in places]
        if found != sorted(found):
            yield Violation(Wrong.DISORDER, order.key, f"its {name} have the lines {found}")


def _check_result(line: Line, result: Result, *, cancelled: bool) -> Iterator[Violation]:
    answer = (result.text, result.finish, result.tokens)
    if result.code == UNDONE and cancelled:
        return
    if line.poisonous:
        if result.code != CRASHED:
            yield Violation(Wrong.POISON_ALIVE, line.custom_id, f"{result}")
    elif result.code == CRASHED:
        yield Violation(Wrong.INNOCENT_DEAD, line.custom_id, f"{result}")
    elif result.code:
        yield Violation(Wrong.LOST, line.custom_id, f"its result is {result.code}")
    elif answer != (line.text, "length", len(line.tokens)):
        yield Violation(Wrong.ALTERED, line.custom_id, f"the answer was {answer}, not {line.text!r}")


def _check_glimpses(record: BatchRecord) -> Iterator[Violation]:
    """What the growing file has shown is how the whole one begins."""
    for glimpse in dict.fromkeys(record.glimpses):  # many looks saw the same
        if glimpse != record.output[: len(glimpse)]:
            kind = Wrong.DISORDER if set(glimpse) <= set(record.output) else Wrong.LOST
            yield Violation(kind, record.order.key, f"its output was seen to begin with {_ids(glimpse)}, and has {_ids(record.output)}")


def _ids(results: Sequence[Result]) -> list[str]:
    return [result.custom_id for result in results]


def _check_runs(record: BatchRecord, ends: Mapping[str, Sequence[str]], jobs: Mapping[str, StoredJob]) -> Iterator[Violation]:
    lines = {line.custom_id: line for line in record.order.lines}
    for result in record.results:
        found = tuple(ends.get(result.job_id, ()))
        if found not in RUNS.get(result.code, {found}):
            kind = Wrong.DOUBLED if len(found) > 1 else Wrong.OUTBOX
            yield Violation(
                kind, result.custom_id, f"its job {result.job_id} ended as {found}, and its result is {result.code or 'an answer'}"
            )
        # Most are forgotten by then.
        if (job := jobs.get(result.job_id)) is not None and result.custom_id in lines:
            yield from _check_job(record.order, lines[result.custom_id], job)


def _check_job(order: BatchOrder, line: Line, job: StoredJob) -> Iterator[Violation]:
    if job.tenant != order.tenant:
        yield Violation(Wrong.SEEN, line.custom_id, f"ordered by {order.tenant}, stored for {job.tenant}")
    tokens = tuple(token for entry in job.log for token in entry.tokens)
    if tokens != line.tokens[: len(tokens)]:
        yield Violation(Wrong.ALTERED, line.custom_id, f"its log holds {tokens}")
