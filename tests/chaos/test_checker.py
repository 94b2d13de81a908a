"""The checker finds nothing in a correct history, and whatever is done to one it finds."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checker import events_of, violations
from tests.chaos.history import Connection, Cut, Entry, Event, History, Mark, Record, Store, StoredJob, Stream
from tests.chaos.orders import LINGERS, TENANTS, Kind, Order
from tests.chaos.wrong import Wrong
from workers.backends.scripted import text_of

STREAM, JOB, POISON, CANCELLED, LEFT, LINGERING, RICH = range(7)
TOKENS = (7, 14, 21, 28, 35, 42)
SECOND = (8, 15, 22, 29, 36, 43)
"""Its other choice."""
LEFTOVERS = {"live": 0, "cost": 0, "lease": 0}


def order(number: int, kind: Kind) -> Order:
    tokens, more = TOKENS if number != LINGERING else TOKENS * (LINGERS // len(TOKENS)), (SECOND,) if number == RICH else ()
    return Order(number, kind, "w1 w2", tokens, seed=number, more=more)


def stored(number: int, epochs: tuple[int, ...], state: str, reason: str) -> StoredJob:
    """One token per entry, under these epochs, then the end."""
    log = [Entry(epoch, n + 1, (TOKENS[n],), text_of(TOKENS[n : n + 1])) for n, epoch in enumerate(epochs)]
    end = Entry(max(epochs, default=0) + 1, len(epochs) + 1, end=state, reason=reason)
    return StoredJob(f"id-{number}", f"order-{number}", TENANTS[number % 2], state, reason, len(epochs), (*log, end))


def stored_rich() -> StoredJob:
    """The choices in turns, two tokens at a time."""
    log = [
        Entry(1 + i // 4, 2 * i + 2, tokens, text_of(tokens), choice=i % 2)
        for i, tokens in enumerate(one[begin : begin + 2] for begin in (0, 2, 4) for one in (TOKENS, SECOND))
    ]
    end = Entry(2, 13, end="done", reason="length,length")
    return StoredJob(f"id-{RICH}", f"order-{RICH}", TENANTS[RICH % 2], "done", "length,length", 12, (*log, end))


def watched(job: StoredJob, *cuts: int, left: bool = False) -> Stream:
    """Its events over several connections, cut behind so many events each."""
    number = int(job.id.removeprefix("id-"))
    events, stream, begin = events_of(job, order(number, Kind.STREAM)), Stream(), 0
    for end in (*cuts, len(events)):
        if begin == 0 or not left:
            after = events[begin - 1].id if begin else ""
            cut = Cut.CLIENT if left else Cut.WIRE if end < len(events) else Cut.SERVER
            stream.connections.append(Connection(after, 200, events[begin:end], cut))
        begin = end
    return stream


def correct() -> History:
    jobs = [
        stored(STREAM, (1, 1, 1, 3, 3, 3), "done", "length"),
        stored(JOB, (1,) * 6, "done", "length"),
        stored(POISON, (), "dead", "it kills"),
        stored(CANCELLED, (1, 1, 2), "cancelled", "cancelled"),
        stored(LEFT, (1, 2, 2), "cancelled", "unattended"),
        stored(LINGERING, (1, 2, 2), "cancelled", "unattended"),
        stored_rich(),
    ]
    records = [
        Record(order(STREAM, Kind.HOP), ["id-0", "id-0"], [watched(jobs[STREAM], 2, 5)]),
        Record(
            order(JOB, Kind.REPEAT), ["id-1", "id-1", "id-1"], [], [202, 503, 202, 202, 200], text_of(TOKENS), "done", strangers=[503, 404]
        ),
        Record(order(POISON, Kind.POISON), ["id-2"], [], [202, 200], "", "dead"),
        Record(order(CANCELLED, Kind.CANCEL_STREAM), ["id-3"], [watched(jobs[CANCELLED], 2)], [200], cancels=["running", "cancelled"]),
        Record(order(LEFT, Kind.LEAVE), ["id-4"], [watched(jobs[LEFT], 2, left=True)]),
        Record(order(LINGERING, Kind.LEAVE), ["id-5"], [watched(jobs[LINGERING], 2, left=True)]),
        Record(
            order(RICH, Kind.STREAM), ["id-6"], [watched(jobs[RICH], 1, 4, 9)], text=text_of(TOKENS), state="done", more=(text_of(SECOND),)
        ),
    ]
    store = Store({job.id: job for job in jobs}, tuple((job.id, job.state) for job in jobs), dict(LEFTOVERS))
    return History(records, store)


def rewrite(history: History, number: int, **changes: Any) -> None:
    history.store.jobs[f"id-{number}"] = replace(history.store.jobs[f"id-{number}"], **changes)


def log_of(history: History, number: int) -> list[Entry]:
    return list(history.store.jobs[f"id-{number}"].log)


def test_a_correct_history() -> None:
    assert violations(correct()) == []


# In the store


def entry_missing(history: History) -> None:
    log = log_of(history, JOB)
    rewrite(history, JOB, log=(*log[:2], *log[3:]))


def entry_twice(history: History) -> None:
    log = log_of(history, JOB)
    rewrite(history, JOB, log=(*log[:3], *log[2:]))


def epoch_back(history: History) -> None:
    log = log_of(history, STREAM)
    rewrite(history, STREAM, log=(*log[:4], replace(log[4], epoch=2), *log[5:]))


def token_behind_the_end(history: History) -> None:
    rewrite(history, JOB, log=(*log_of(history, JOB), Entry(9, 7, (49,), "<49>")), committed=7)


def second_end(history: History) -> None:
    log = log_of(history, JOB)
    rewrite(history, JOB, log=(*log, replace(log[-1], epoch=9)))


def no_end(history: History) -> None:
    rewrite(history, JOB, log=tuple(log_of(history, JOB)[:-1]), state="running", reason="")


def another_token(history: History) -> None:
    log = log_of(history, JOB)
    rewrite(history, JOB, log=(*log[:2], replace(log[2], tokens=(99,), text="<99>"), *log[3:]))


def too_few_tokens(history: History) -> None:
    """As if the worker had stopped early: log, count and end agree with each other."""
    short = stored(JOB, (1,) * 5, "done", "length")
    history.store.jobs[short.id] = short


def choices_swapped(history: History) -> None:
    log = log_of(history, RICH)
    rewrite(history, RICH, log=tuple(replace(entry, choice=1 - entry.choice) if entry.end is None else entry for entry in log))


def one_choice_short(history: History) -> None:
    """As if one choice had ended for both: log, count and end agree with each other."""
    log = log_of(history, RICH)
    rewrite(history, RICH, log=(*log[:5], replace(log[-1], n=11)), committed=10)


def choice_nobody_asked_for(history: History) -> None:
    log = log_of(history, JOB)
    rewrite(history, JOB, log=(replace(log[0], choice=1), *log[1:]))


def choice_ended_otherwise(history: History) -> None:
    log = log_of(history, RICH)
    rewrite(history, RICH, log=(*log[:-1], replace(log[-1], reason="length,stop")), reason="length,stop")


def job_missing(history: History) -> None:
    del history.store.jobs["id-1"]


def other_reason(history: History) -> None:
    failed = stored(JOB, (1,) * 6, "failed", "engine_error: no")
    history.store.jobs[failed.id] = failed


def innocent_dead(history: History) -> None:
    dead = stored(JOB, (1, 1), "dead", "its worker died")
    history.store.jobs[dead.id] = dead


def poison_done(history: History) -> None:
    done = stored(POISON, (1,) * 6, "done", "length")
    history.store.jobs[done.id] = done


def second_job(history: History) -> None:
    history.store.jobs["id-9"] = replace(history.store.jobs["id-1"], id="id-9")


def job_of_nobody(history: History) -> None:
    history.store.jobs["id-9"] = replace(history.store.jobs["id-1"], id="id-9", key="order-9")


def still_owed(history: History) -> None:
    history.store.leftovers["cost"] = 17


# What clients saw


def connection(history: History, index: int = 1) -> Connection:
    return history.records[STREAM].streams[0].connections[index]


def event_unseen(history: History) -> None:
    del connection(history).events[1]


def event_seen_twice(history: History) -> None:
    events = connection(history).events
    events.insert(0, events[0])


def seen_again_after_a_cut(history: History) -> None:
    """As if the cursor meant "from here on" and not "behind"."""
    connection(history, 2).events.insert(0, connection(history).events[-1])


def events_swapped(history: History) -> None:
    events = connection(history).events
    events[0], events[1] = events[1], events[0]


def other_text_seen(history: History) -> None:
    events = connection(history).events
    events[0] = replace(events[0], text="<0>")


def ahead_of_the_log(history: History) -> None:
    connection(history, 2).events.append(Event("9-9", Mark.TEXT, "<9>"))


def text_of_another_choice(history: History) -> None:
    connection = history.records[RICH].streams[0].connections[1]
    connection.events[1] = replace(connection.events[1], choice=1 - connection.events[1].choice)


def other_token_ids_told(history: History) -> None:
    connection = history.records[RICH].streams[0].connections[1]
    connection.events[1] = replace(connection.events[1], tokens=(1, 2))


def choice_untold(history: History) -> None:
    history.records[RICH].more = ()


def stream_stops(history: History) -> None:
    history.records[STREAM].streams[0].connections.pop()


def clean_end_in_the_middle(history: History) -> None:
    connection(history).cut = Cut.SERVER


def server_error(history: History) -> None:
    history.records[STREAM].streams[0].connections.insert(1, Connection("1-1", 500, [], Cut.SERVER))


def call_refused(history: History) -> None:
    history.records[JOB].statuses.append(500)


def two_ids_told(history: History) -> None:
    history.records[JOB].job_ids.append("id-8")


def other_answer(history: History) -> None:
    history.records[JOB].text = text_of(TOKENS[:-1])


def other_state_told(history: History) -> None:
    history.records[JOB].state = "cancelled"


def done_though_cancelled(history: History) -> None:
    """Store and stream agree."""
    done = stored(CANCELLED, (1,) * 6, "done", "length")
    history.store.jobs[done.id] = done
    history.records[CANCELLED].streams = [watched(done, 2)]


def saw_no_stream(history: History) -> None:
    history.records[STREAM].streams.clear()


def saw_no_text(history: History) -> None:
    history.records[JOB].text = None


def heard_of_no_job(history: History) -> None:
    history.records[LEFT].job_ids.clear()


def ended_by_nobodys_grace(history: History) -> None:
    cancelled = stored(LINGERING, (1, 2, 2), "cancelled", "cancelled")
    history.store.jobs[cancelled.id] = cancelled


def shown_to_a_stranger(history: History) -> None:
    history.records[JOB].strangers.append(200)


def stored_for_a_stranger(history: History) -> None:
    rewrite(history, JOB, tenant=TENANTS[0])


def client_gave_up(history: History) -> None:
    history.records[JOB].gave_up = "no answer"


ANOMALIES: list[tuple[Callable[[History], None], Wrong]] = [
    (entry_missing, Wrong.LOST),
    (entry_twice, Wrong.DOUBLED),
    (epoch_back, Wrong.DISORDER),
    (token_behind_the_end, Wrong.UNENDED),
    (second_end, Wrong.UNENDED),
    (no_end, Wrong.UNENDED),
    (another_token, Wrong.ALTERED),
    (too_few_tokens, Wrong.LOST),
    (choices_swapped, Wrong.ALTERED),
    (one_choice_short, Wrong.LOST),
    (choice_nobody_asked_for, Wrong.ALTERED),
    (choice_ended_otherwise, Wrong.UNENDED),
    (job_missing, Wrong.LOST),
    (other_reason, Wrong.UNENDED),
    (innocent_dead, Wrong.INNOCENT_DEAD),
    (poison_done, Wrong.POISON_ALIVE),
    (second_job, Wrong.ONE_JOB),
    (job_of_nobody, Wrong.ONE_JOB),
    (still_owed, Wrong.COUNTS),
    (event_unseen, Wrong.LOST),
    (event_seen_twice, Wrong.DOUBLED),
    (seen_again_after_a_cut, Wrong.DOUBLED),
    (events_swapped, Wrong.DISORDER),
    (other_text_seen, Wrong.ALTERED),
    (ahead_of_the_log, Wrong.LOST),
    (text_of_another_choice, Wrong.ALTERED),
    (other_token_ids_told, Wrong.ALTERED),
    (choice_untold, Wrong.ALTERED),
    (stream_stops, Wrong.LOST),
    (clean_end_in_the_middle, Wrong.FALSE_END),
    (server_error, Wrong.STATUS),
    (call_refused, Wrong.STATUS),
    (two_ids_told, Wrong.ONE_JOB),
    (other_answer, Wrong.ALTERED),
    (other_state_told, Wrong.UNENDED),
    (done_though_cancelled, Wrong.UNENDED),
    (saw_no_stream, Wrong.LOST),
    (saw_no_text, Wrong.LOST),
    (heard_of_no_job, Wrong.LOST),
    (ended_by_nobodys_grace, Wrong.UNENDED),
    (shown_to_a_stranger, Wrong.SEEN),
    (stored_for_a_stranger, Wrong.SEEN),
    (client_gave_up, Wrong.LATE),
]


@pytest.mark.parametrize(("damage", "kind"), ANOMALIES, ids=[damage.__name__ for damage, _ in ANOMALIES])
def test_an_anomaly_is_found(damage: Callable[[History], None], kind: Wrong) -> None:
    history = deepcopy(correct())
    damage(history)
    assert kind in {violation.kind for violation in violations(history)}


@pytest.mark.parametrize("outbox", ["missing", "twice", "another state", "of no job"])
def test_the_outbox_has_one_entry_per_job(outbox: str) -> None:
    history = correct()
    first, *rest = history.store.outbox
    entries = {
        "missing": rest,
        "twice": [first, first, *rest],
        "another state": [(first[0], "failed"), *rest],
        "of no job": [first, *rest, ("id-7", "done")],
    }
    changed = replace(history.store, outbox=tuple(entries[outbox]))
    assert {violation.kind for violation in violations(replace(history, store=changed))} == {Wrong.OUTBOX}
