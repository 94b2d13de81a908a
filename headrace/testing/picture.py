"""The whole store, seen from outside: two pictures show what a call has changed."""

from collections import Counter
from dataclasses import dataclass, field

from headrace.cursor import START
from headrace.job import Job, LogEntry
from headrace.request import Lane
from headrace.state import LIVE, TERMINAL, TRANSITIONS, State
from headrace.testing.bench import Bench, Outcome


@dataclass
class Picture:
    jobs: dict[str, Job] = field(default_factory=dict)
    logs: dict[str, list[LogEntry]] = field(default_factory=dict)
    outbox: list[Outcome] = field(default_factory=list)
    withheld: frozenset[str] = frozenset()


async def look(bench: Bench) -> Picture:
    made = bench.made.items()
    jobs = {job.request.id: job for tenant, ids in made for job in await bench.queue.get_many(tenant, ids) if job is not None}
    logs = await bench.queue.read_logs([(job_id, START) for job_id in jobs], 10_000)
    return Picture(jobs, dict(zip(jobs, logs, strict=True)), await bench.outbox(), await bench.withheld())


def check_changes(before: Picture, after: Picture, transitions: tuple[str, ...]) -> None:
    """Asserts that nothing changed but what these transitions of `headrace/state.py` may."""
    _check_states(before, after, transitions)
    _check_outbox(before, after, purging="purge" in transitions)
    _check_logs(before, after)


def _check_states(before: Picture, after: Picture, transitions: tuple[str, ...]) -> None:
    for job_id in before.jobs.keys() | after.jobs.keys():
        old, new = before.jobs.get(job_id), after.jobs.get(job_id)
        source, target = old and old.state, new and new.state
        if source != target:
            allowed = [TRANSITIONS[name] for name in transitions]
            assert any(source in sources and target in targets for sources, targets in allowed), (transitions, source, target)
        if old is not None and new is not None:
            assert new.epoch >= old.epoch
            assert new.committed >= old.committed
            assert old.state in LIVE or new == old, "an ended job changed"


def _check_outbox(before: Picture, after: Picture, *, purging: bool) -> None:
    old, new = Counter(before.outbox), Counter(after.outbox)
    if purging:
        assert new <= old
        return
    ended = [job for i, job in after.jobs.items() if job.state in TERMINAL and (i not in before.jobs or before.jobs[i].state in LIVE)]
    assert new == old + Counter(Outcome(job.request.id, job.request.tenant, job.state, job.reason) for job in ended)


def _check_logs(before: Picture, after: Picture) -> None:
    for job_id, log in after.logs.items():
        old = before.logs.get(job_id, [])
        assert log[: len(old)] == old, "a log entry changed or vanished"
        if log == old:
            continue
        positions = [entry.position for entry in log]
        assert positions == sorted(set(positions))
        tokens = [token for entry in log for token in entry.token_ids]
        job = after.jobs[job_id]
        assert tokens == list(range(job.committed))
        ends = [entry.end for entry in log if entry.end is not None]
        assert ends == ([job.state] if job.state in TERMINAL else [])
        assert not ends or log[-1].end is not None


async def check_reads(bench: Bench, picture: Picture) -> None:
    """Asserts that states, lists and counts say the same as the jobs themselves."""
    jobs, queue = picture.jobs, bench.queue
    assert dict(zip(jobs, await queue.states(list(jobs)), strict=True)) == {job_id: job.state for job_id, job in jobs.items()}
    for tenant in bench.made:
        listed = await queue.list_jobs(tenant, after=None, limit=10_000)
        own = [job_id for job_id, job in jobs.items() if job.request.tenant == tenant and job.request.lane is not Lane.BATCH]
        assert sorted(job.request.id for job in listed) == sorted(own)
        assert all(jobs[job.request.id] == job for job in listed)
    load = await queue.load()
    states = [job.state for job in jobs.values()]
    assert all(jobs[job_id].state is State.QUEUED for job_id in picture.withheld)
    assert sum(depth.queued for depth in load.lanes) == states.count(State.QUEUED) - len(picture.withheld)
    assert (load.running, load.delayed) == (states.count(State.RUNNING), states.count(State.DELAYED))
    assert load.cost == sum(job.request.cost for job in jobs.values() if job.state in LIVE)
