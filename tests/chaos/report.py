"""A result in words and tables."""

import statistics
from collections import Counter

from rich.console import Console
from rich.table import Table

from tests.chaos.batch_checker import tally
from tests.chaos.plan import Fault
from tests.chaos.run import Result
from tests.chaos.wrong import Wrong

SHOWN = 40
"""Violations that are printed; all of them are in the folder."""


def print_report(result: Result, console: Console) -> None:
    console.print(_faults(result))
    console.print(_verdict(result))
    jobs = result.history.store.jobs.values()
    tokens = sum(job.committed for job in jobs)
    console.print(
        f"seed {result.settings.seed} · {len(jobs):,} jobs, {tokens:,} tokens, {len(result.struck)} faults in {result.took_s:.0f} s "
        f"({len(jobs) / result.took_s:.0f} jobs a second)",
        highlight=False,
    )
    console.print(_batches(result), highlight=False)
    for role, drains in result.drains.items():
        if drains:
            console.print(
                f"{role}: left {statistics.median(drains):.1f} s after SIGTERM (median), {max(drains):.1f} s at most", highlight=False
            )
    for violation in result.violations[:SHOWN]:
        console.print(str(violation), style="red", highlight=False, markup=False, soft_wrap=True)


def _batches(result: Result) -> str:
    batches = result.history.batches
    lines, lost, doubled, wrong, disordered = tally(result.history)
    ends = Counter(record.end.status for record in batches if record.end is not None)
    answered = sum(len(record.output) for record in batches)
    return (
        f"{len(batches)} batches ({', '.join(f'{count} {status}' for status, count in ends.most_common())}) of {lines:,} lines, "
        f"{answered:,} answered: {lost} lost, {doubled} doubled, {wrong} wrong, {disordered} out of order"
    )


def _verdict(result: Result) -> Table:
    counts = Counter(violation.kind for violation in result.violations)
    table = Table("found", "times")
    for kind in Wrong:
        table.add_row(kind, str(counts[kind]), style="red" if counts[kind] else "")
    states = Counter(job.state for job in result.history.store.jobs.values())
    table.caption = ", ".join(f"{count:,} {state}" for state, count in states.most_common())
    return table


def _faults(result: Result) -> Table:
    """With the longest pause of any running answer that each fell into: what it, or one that struck nearby, cost at most."""
    table = Table("fault", "times", "longest pause of an answer, median", "most")
    for fault in Fault:
        times = [struck.at for struck in result.struck if struck.strike.fault is fault]
        longest = [max((end - begin for begin, end in result.pauses if begin <= at <= end), default=0.0) for at in times]
        if times:
            table.add_row(fault, str(len(times)), f"{statistics.median(longest):.1f} s", f"{max(longest):.1f} s")
    return table
