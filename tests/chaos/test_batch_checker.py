"""The checker finds nothing in correct batches, and whatever is done to one it finds."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.batch_checker import tally
from tests.chaos.batch_history import BatchEnd, BatchRecord, Result
from tests.chaos.batch_orders import BatchKind, BatchOrder, Flaw, Line
from tests.chaos.checker import violations
from tests.chaos.history import Entry, History, Store, StoredJob
from tests.chaos.orders import TENANTS
from tests.chaos.wrong import Wrong
from workers.backends.scripted import text_of

WHOLE, CANCELLED, FAULTY = range(3)
LINES = 4
POISON = 1
"""The line of the whole batch that is."""
ANSWERED = 2
"""Lines of the cancelled batch that were done before the cancel."""


def tokens(batch: int, number: int) -> tuple[int, ...]:
    return tuple(100 * batch + 10 * number + position for position in range(3))


def order(batch: int, kind: BatchKind) -> BatchOrder:
    def line(number: int) -> Line:
        flaw = Flaw.URL if batch == FAULTY and number == 2 else None
        return Line(f"batch-{batch}-line-{number}", "w1", tokens(batch, number), (batch, number) == (WHOLE, POISON), flaw)

    return BatchOrder(batch, kind, 0, tuple(line(number) for number in range(LINES)), seed=1)


def result(batch: int, number: int, code: str = "") -> Result:
    custom_id, job_id, ids = f"batch-{batch}-line-{number}", f"job-{batch}-{number}", tokens(batch, number)
    return Result(custom_id, job_id, code=code) if code else Result(custom_id, job_id, text_of(ids), "length", len(ids))


def whole() -> BatchRecord:
    output = tuple(result(WHOLE, number) for number in range(LINES) if number != POISON)
    return BatchRecord(
        order(WHOLE, BatchKind.WHOLE),
        ["batch_0", "batch_0"],
        [200, 503, 200],
        [404, 503],
        glimpses=[(), output[:1], output[:2]],
        end=BatchEnd("completed", (LINES, LINES - 1, 1), 3 * (LINES - 1), ()),
        output=output,
        errors=(result(WHOLE, POISON, "worker_crashed"),),
    )


def cancelled() -> BatchRecord:
    output = tuple(result(CANCELLED, number) for number in range(ANSWERED))
    return BatchRecord(
        order(CANCELLED, BatchKind.CANCELLED),
        ["batch_1"],
        [200],
        cancels=["cancelling"],
        end=BatchEnd("cancelled", (LINES, ANSWERED, LINES - ANSWERED), 3 * ANSWERED, ()),
        output=output,
        errors=tuple(result(CANCELLED, number, "batch_cancelled") for number in range(ANSWERED, LINES)),
    )


def faulty() -> BatchRecord:
    end = BatchEnd("failed", (0, 0, 0), 0, ((3, "mismatched_url"),))
    return BatchRecord(order(FAULTY, BatchKind.FAULTY), ["batch_2"], [200], end=end)


def correct() -> History:
    """What is done is forgotten by the store, and told by the outbox; of what was cancelled one line has run, the other had not begun."""
    outbox = [(f"job-{WHOLE}-{number}", "dead" if number == POISON else "done") for number in range(LINES)]
    outbox += [(f"job-{CANCELLED}-{number}", "done") for number in range(ANSWERED)] + [(f"job-{CANCELLED}-{ANSWERED}", "cancelled")]
    log = (Entry(1, 1, tokens(CANCELLED, ANSWERED)[:1], "<t>"), Entry(1, 2, end="cancelled", reason="cancelled"))
    left = StoredJob(f"job-{CANCELLED}-{ANSWERED}", "", TENANTS[CANCELLED % 2], "cancelled", "cancelled", 1, log)
    store = Store({left.id: left}, tuple(outbox), {})
    return History([], store, [whole(), cancelled(), faulty()], frozenset({"batch_0", "batch_1", "batch_2"}))


def found(history: History) -> set[Wrong]:
    return {violation.kind for violation in violations(history)}


def test_correct_batches() -> None:
    assert violations(correct()) == []
    assert tally(correct()) == (3 * LINES, 0, 0, 0, 0)


# In the files


def line_missing(history: History) -> None:
    record = history.batches[WHOLE]
    record.output = record.output[:-1]


def line_twice(history: History) -> None:
    record = history.batches[WHOLE]
    record.output = (*record.output, record.output[-1])


def line_in_both_files(history: History) -> None:
    """As if it was answered, and then cancelled."""
    record = history.batches[CANCELLED]
    record.errors = (result(CANCELLED, 1, "batch_cancelled"), *record.errors)


def line_lost_by_the_cancel(history: History) -> None:
    record = history.batches[CANCELLED]
    record.errors = record.errors[:-1]


def line_of_another_batch(history: History) -> None:
    record = history.batches[WHOLE]
    record.output = (*record.output, result(CANCELLED, 0))


def answers_swapped(history: History) -> None:
    record = history.batches[WHOLE]
    record.output = (record.output[1], record.output[0], *record.output[2:])
    record.glimpses.clear()


def errors_swapped(history: History) -> None:
    record = history.batches[CANCELLED]
    record.errors = record.errors[::-1]


def answer_of_another_line(history: History) -> None:
    record = history.batches[WHOLE]
    first, second, third = record.output
    record.output = (first, replace(second, text=third.text), third)
    record.glimpses.clear()


def answer_cut(history: History) -> None:
    record = history.batches[WHOLE]
    short = tokens(WHOLE, 0)[:2]
    record.output = (replace(record.output[0], text=text_of(short), tokens=2), *record.output[1:])
    record.glimpses.clear()


def innocent_dead(history: History) -> None:
    record = history.batches[CANCELLED]
    record.errors = (replace(record.errors[0], code="worker_crashed"), *record.errors[1:])


def undone_without_a_cancel(history: History) -> None:
    record = history.batches[WHOLE]
    record.output = record.output[:-1]
    record.errors = (*record.errors, result(WHOLE, LINES - 1, "batch_cancelled"))


def result_lost(history: History) -> None:
    record = history.batches[WHOLE]
    record.output = record.output[:-1]
    record.errors = (*record.errors, result(WHOLE, LINES - 1, "result_lost"))


def poison_answered(history: History) -> None:
    record = history.batches[WHOLE]
    record.errors = (result(WHOLE, POISON),)


def faulty_file_ran(history: History) -> None:
    history.batches[FAULTY].output = (result(FAULTY, 0),)


def shown_and_taken_back(history: History) -> None:
    history.batches[CANCELLED].glimpses.append(tuple(result(CANCELLED, number) for number in range(ANSWERED + 1)))


def shown_in_another_order(history: History) -> None:
    """As if a line's answer had been shown before that of a line in front of it."""
    record = history.batches[WHOLE]
    record.glimpses.append(record.output[1:])


# On the way


def ran_twice(history: History) -> None:
    told(history, f"job-{WHOLE}-0", "done")


def never_ran(history: History) -> None:
    history.store = replace(history.store, outbox=history.store.outbox[1:])


def done_though_told_undone(history: History) -> None:
    told(history, f"job-{CANCELLED}-{LINES - 1}", "done")


def line_of_nobody(history: History) -> None:
    """A job of the faulty file, which no file tells of."""
    history.store.jobs["job-2-0"] = replace(history.store.jobs["job-1-2"], id="job-2-0", state="done")
    told(history, "job-2-0", "done")


def forgotten_line_of_nobody(history: History) -> None:
    told(history, "job-2-0", "done")


def other_token(history: History) -> None:
    left = history.store.jobs["job-1-2"]
    history.store.jobs[left.id] = replace(left, log=(replace(left.log[0], tokens=(9,)), left.log[1]))


def stored_for_a_stranger(history: History) -> None:
    history.store.jobs["job-1-2"] = replace(history.store.jobs["job-1-2"], tenant=TENANTS[0])


# What the client was told


def second_batch(history: History) -> None:
    history.batches[WHOLE].batch_ids.append("batch_9")


def batch_of_nobody(history: History) -> None:
    history.batch_ids |= {"batch_9"}


def batch_gone(history: History) -> None:
    history.batch_ids -= {"batch_0"}


def never_accepted(history: History) -> None:
    history.batches[WHOLE].batch_ids.clear()


def other_end(history: History) -> None:
    change_end(history, WHOLE, status="expired")


def done_though_cancelling(history: History) -> None:
    change_end(history, CANCELLED, status="completed")


def faulty_completed(history: History) -> None:
    change_end(history, FAULTY, status="completed")


def fault_not_named(history: History) -> None:
    change_end(history, FAULTY, faults=())


def miscounted(history: History) -> None:
    change_end(history, WHOLE, counts=(LINES, LINES, 0))


def tokens_miscounted(history: History) -> None:
    change_end(history, WHOLE, output_tokens=1)


def no_end(history: History) -> None:
    history.batches[WHOLE].end = None


def client_gave_up(history: History) -> None:
    history.batches[WHOLE].gave_up = "no answer"


def call_failed(history: History) -> None:
    history.batches[WHOLE].statuses.append(500)


def shown_to_a_stranger(history: History) -> None:
    history.batches[WHOLE].strangers.append(200)


def told(history: History, job_id: str, state: str) -> None:
    """By the outbox, besides all else."""
    history.store = replace(history.store, outbox=(*history.store.outbox, (job_id, state)))


def change_end(history: History, batch: int, **changes: Any) -> None:
    record = history.batches[batch]
    assert record.end is not None
    record.end = replace(record.end, **changes)


ANOMALIES: list[tuple[Callable[[History], None], Wrong]] = [
    (line_missing, Wrong.LOST),
    (line_twice, Wrong.DOUBLED),
    (line_in_both_files, Wrong.DOUBLED),
    (line_lost_by_the_cancel, Wrong.LOST),
    (line_of_another_batch, Wrong.DOUBLED),
    (answers_swapped, Wrong.DISORDER),
    (errors_swapped, Wrong.DISORDER),
    (answer_of_another_line, Wrong.ALTERED),
    (answer_cut, Wrong.ALTERED),
    (innocent_dead, Wrong.INNOCENT_DEAD),
    (undone_without_a_cancel, Wrong.LOST),
    (result_lost, Wrong.LOST),
    (poison_answered, Wrong.POISON_ALIVE),
    (faulty_file_ran, Wrong.DOUBLED),
    (shown_and_taken_back, Wrong.LOST),
    (shown_in_another_order, Wrong.DISORDER),
    (ran_twice, Wrong.DOUBLED),
    (never_ran, Wrong.OUTBOX),
    (done_though_told_undone, Wrong.OUTBOX),
    (line_of_nobody, Wrong.ONE_JOB),
    (forgotten_line_of_nobody, Wrong.OUTBOX),
    (other_token, Wrong.ALTERED),
    (stored_for_a_stranger, Wrong.SEEN),
    (second_batch, Wrong.ONE_BATCH),
    (batch_of_nobody, Wrong.ONE_BATCH),
    (batch_gone, Wrong.LOST),
    (never_accepted, Wrong.LOST),
    (other_end, Wrong.UNENDED),
    (done_though_cancelling, Wrong.UNENDED),
    (faulty_completed, Wrong.UNENDED),
    (fault_not_named, Wrong.TOTALS),
    (miscounted, Wrong.TOTALS),
    (tokens_miscounted, Wrong.TOTALS),
    (no_end, Wrong.LOST),
    (client_gave_up, Wrong.LATE),
    (call_failed, Wrong.STATUS),
    (shown_to_a_stranger, Wrong.SEEN),
]


@pytest.mark.parametrize(("damage", "kind"), ANOMALIES, ids=[damage.__name__ for damage, _ in ANOMALIES])
def test_an_anomaly_is_found(damage: Callable[[History], None], kind: Wrong) -> None:
    history = deepcopy(correct())
    damage(history)
    assert kind in found(history)


def test_the_tally_counts_them() -> None:
    history = correct()
    line_missing(history)
    line_in_both_files(history)
    errors_swapped(history)
    answer_cut(history)
    assert tally(history) == (3 * LINES, 1, 1, 1, 1)
