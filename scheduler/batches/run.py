"""Running a batch: hand its lines to the queue, no more than the workers can soon take, and write what comes back into its journal.

Every step may be cut off anywhere and done again by somebody else. A line's job id follows from the batch and the line, so handing it over
twice makes one job. A result is durable in the journal before the queue may forget it. What is in flight needs no memory of its own: it is
what was submitted and is not in the journal.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from headrace.batch import Batch, BatchStatus
from headrace.batch_ports import BatchUpdate
from headrace.cursor import START
from headrace.errors import ModelNotFound, ModelUnavailable, QueueFull, RequestError, RequestTooLarge
from headrace.files.journal import Journal, Result
from headrace.ids import derived_seed, line_job_id
from headrace.job import Job
from headrace.ports import Submission
from headrace.request import Lane, Request
from headrace.state import TERMINAL, State
from headrace.wire.draft import Draft, draft
from headrace.wire.spelling import Spelling
from scheduler.batches.batch_line import parse_line, read_body
from scheduler.batches.hold import Hold
from scheduler.batches.lines import Input
from scheduler.batches.made_file import growing_file
from scheduler.batches.progress import counted
from scheduler.batches.resources import Resources
from scheduler.batches.results import ended_result, refused_result

FIRST_WINDOW, LARGEST_WINDOW = 64, 4_096
"""Lines in flight. Enough to keep a worker's engine full while nobody looks, few enough to leave no heap in the store."""

LOOK_S = 0.1
"""Between two looks at what is in flight."""

SAVE_S = 0.5
"""Between two checkpoints: what callers see of the progress."""

LONGEST_WAIT_S = 5.0
"""Before a full queue is tried again, however long it says it will stay so: there is more than one reason for it to empty sooner."""

_HANDED = 16
"""Lines accepted at once: what a full queue refuses of them was tokenized in vain."""
_CHUNK = 64
_MOST_TOKENS = 16_384
"""Tokens whose log entries are read and rendered in one go, half a second's work: the lease must be renewed in between."""
_WHOLE_LOG = 1_000_000


def next_window(window: int, waiting: int) -> int:
    """How many lines to keep in flight, given how many of them still wait in the queue.

    Empty-handed workers double it; a queue that holds more than half of it halves it.
    """
    if waiting == 0:
        return min(2 * window, LARGEST_WINDOW)
    return max(window // 2, FIRST_WINDOW) if waiting > window // 2 else window


def tokens_told(job: Job) -> int:
    """Tokens that its answer names: those of its text, and with each its alternatives."""
    sampling = job.request.sampling
    places = job.committed + (job.request.room if sampling.prompt_logprobs else 0)
    return places * (1 + (sampling.logprobs or 0))


def groups(found: Sequence[tuple[int, Job]], most: int) -> Iterator[list[tuple[int, Job]]]:
    """Lines with their jobs, in order, in groups that tell at most `most` tokens; a job that tells more is alone."""
    group: list[tuple[int, Job]] = []
    tokens = 0
    for line, job in found:
        told = tokens_told(job)
        if group and tokens + told > most:
            yield group
            group, tokens = [], 0
        group.append((line, job))
        tokens += told
    if group:
        yield group


class Runner:
    """Works on one batch that is in progress, or is being cancelled. The journal is up to date."""

    def __init__(self, resources: Resources, hold: Hold, lines: Input, journal: Journal) -> None:
        self._resources = resources
        self._queue = resources.queue
        self._hold = hold
        self._lines = lines
        self._journal = journal
        self._next = hold.batch.progress.submitted
        self._live = {line for line in range(self._next) if line not in journal}
        self._window = min(max(FIRST_WINDOW, len(self._live)), LARGEST_WINDOW)
        self._full_until = float("-inf")
        """The queue has refused lines, and said how long to wait (clock)."""
        self._replayed: set[int] = set()
        """Lines that the queue knows and has no job of: see `_submit_again`."""
        self._closed = False
        self._saved_at = float("-inf")

    @property
    def finished(self) -> bool:
        """Nothing is in flight, and nothing more will be."""
        return not self._live and (self._stopping or self._next == len(self._lines))

    async def run(self, until: Callable[[], bool]) -> None:
        """Work until the batch is `finished`, or `until` says to let others work. Raises BatchLeaseLost, QueueUnavailable."""
        while not self.finished:
            moved = await self._turn()
            if self.finished:
                await self._look_again()
            if self.finished or until():
                break
            await self._save(now=False)
            if not moved:
                await asyncio.sleep(LOOK_S)
        await self._save(now=True)

    @property
    def _batch(self) -> Batch:
        return self._hold.batch

    @property
    def _stopping(self) -> bool:
        return self._closed or self._batch.status is BatchStatus.CANCELLING

    async def _turn(self) -> bool:
        """One look at what is in flight, and what follows from it. False: nothing to do but wait."""
        self._closed = self._closed or self._resources.now_ms() >= self._batch.expires_ms
        lines = sorted(self._live)
        states = dict(zip(lines, await self._queue.states([self._job_id(line) for line in lines]), strict=True))
        ended = [line for line, state in states.items() if state in TERMINAL]
        await self._collect(ended)
        if self._stopping:
            await self._abandon(states)
            return bool(ended)
        if ended:
            self._full_until = float("-inf")  # where a job has left there is room
        if self._full:
            return False
        missing = [line for line, state in states.items() if state is None]
        await self._submit_again(missing)
        if not missing:
            self._window = next_window(self._window, sum(state is State.QUEUED for state in states.values()))
        room = max(0, self._window - len(self._live))
        return await self._submit(range(self._next, min(self._next + room, len(self._lines)))) or bool(ended)

    @property
    def _full(self) -> bool:
        return self._resources.clock() < self._full_until

    async def _look_again(self) -> None:
        """Before the files are written of it: what is not in the journal, whatever became of it there, is still to be done."""
        if not self._stopping:
            await self._hold.keep(asyncio.to_thread(self._journal.refresh))
            self._live = {line for line in range(self._next) if line not in self._journal}

    # What comes back

    async def _collect(self, ended: Sequence[int]) -> None:
        for lines in _chunks(ended):
            jobs = await self._queue.get_many(self._batch.new.tenant, [self._job_id(line) for line in lines])
            # No job: forgotten in this moment, by somebody who has recorded it. The journal has it at the next look.
            found = [(line, job) for line, job in zip(lines, jobs, strict=True) if job is not None]
            for group in groups(found, _MOST_TOKENS):
                await self._collect_group(group)

    async def _collect_group(self, group: Sequence[tuple[int, Job]]) -> None:
        logs = await self._queue.read_logs([(job.request.id, START) for _, job in group], _WHOLE_LOG)
        results = []
        for (line, job), log in zip(group, logs, strict=True):
            if job.state is State.EXPIRED:
                self._closed = True  # a line's deadline is the batch's
            if job.state in (State.EXPIRED, State.CANCELLED) and self._stopping:
                self._live.discard(line)  # undone: it gets its error line when the files are written
            elif log:
                results.append(ended_result(line, self._custom_id(line), job, log, self._spelling(job.request)))
        await self._queue.forget([self._job_id(line) for line in await self._record(results)])

    def _spelling(self, request: Request) -> Spelling | None:
        """Raises ModelUnavailable: like its request, an answer waits until its model is served again."""
        try:
            return Spelling.of(request, self._resources.prompters)
        except ModelNotFound as error:
            raise ModelUnavailable(error.message) from error

    async def _record(self, results: Sequence[Result]) -> list[int]:
        """The lines whose results are in the journal now. One that is not, for another writer's sake, stays in flight."""
        await self._hold.renew_if_due()
        await self._hold.keep(asyncio.to_thread(self._journal.append, results))
        recorded = [result.line for result in results if result.line in self._journal]
        self._live.difference_update(recorded)
        return recorded

    async def _abandon(self, states: dict[int, State | None]) -> None:
        """Stop what still runs; lines that no job is known of are undone already."""
        tenant = self._batch.new.tenant
        for line, state in states.items():
            if state is None:
                self._live.discard(line)
        running = [line for line, state in states.items() if state is not None and line in self._live]
        for chunk in _chunks(running):
            await asyncio.gather(*(self._queue.cancel(tenant, self._job_id(line)) for line in chunk))

    # What goes in

    async def _submit(self, lines: Iterable[int]) -> bool:
        """Hand over lines in order, until the queue is full. False: there were none."""
        taken = False
        for chunk in _chunks(lines, _HANDED):
            if self._full:
                break
            await self._hold.renew_if_due()
            self._live.update(line for line in chunk if line not in self._journal)
            self._next = chunk[-1] + 1
            await self._hand_over(chunk)
            taken = True
        return taken

    async def _submit_again(self, lines: Sequence[int]) -> None:
        """Lines that were submitted and that the queue has no job of: cut off before they reached it, or collected by somebody else.

        A job that ended and was purged before anybody collected it cannot run again under its id; its line fails.
        """
        if not lines:
            return
        self._journal.refresh()
        self._live.difference_update(line for line in lines if line in self._journal)
        lost = [line for line in lines if line in self._live and line in self._replayed]
        error = RequestError("The result was purged before it could be collected.", code="result_lost")
        error.status = 500
        await self._record([refused_result(line, self._custom_id(line), self._job_id(line), error) for line in lost])
        for chunk in _chunks((line for line in lines if line in self._live), _HANDED):
            if self._full:
                break
            self._replayed.update(await self._hand_over(chunk))

    async def _hand_over(self, lines: Sequence[int]) -> list[int]:
        """Accept the lines' jobs; those that the queue knew already are returned. Lines that cannot be drafted fail.

        What a full queue refuses is found missing when it has room again, and handed over again.
        """
        drafted = await self._hold.keep(asyncio.to_thread(lambda: [self._draft(line) for line in lines]))
        await self._record([one for one in drafted if isinstance(one, Result)])
        pending = [(line, one) for line, one in zip(lines, drafted, strict=True) if isinstance(one, Draft)]
        answers = await asyncio.gather(*(self._accept(line, one) for line, one in pending))
        await self._record([one for one in answers if isinstance(one, Result)])
        return [line for (line, _), replayed in zip(pending, answers, strict=True) if replayed is True]

    async def _accept(self, line: int, drafted: Draft) -> bool | Result:
        """Whether the queue knew it already, or its result if it can never be taken."""
        try:
            return (await self._queue.accept(self._submission(line, drafted))).replayed
        except QueueFull as error:
            self._full_until = self._resources.clock() + min(error.retry_after, LONGEST_WAIT_S)
            return False
        except RequestTooLarge as error:
            return refused_result(line, self._custom_id(line), self._job_id(line), error)

    def _draft(self, line: int) -> Draft | Result:
        job_id = self._job_id(line)
        parsed = parse_line(self._lines[line])
        try:
            return draft(read_body(parsed, self._batch.new.endpoint), self._resources.prompters, derived_seed(job_id))
        except ModelNotFound as error:
            # It was served when the input was checked: like any accepted request, the line waits until it is again.
            raise ModelUnavailable(error.message) from error
        except RequestError as error:
            return refused_result(line, parsed.custom_id, job_id, error)

    def _submission(self, line: int, drafted: Draft) -> Submission:
        request = Request(
            id=self._job_id(line),
            tenant=self._batch.new.tenant,
            model=drafted.model,
            endpoint=drafted.endpoint,
            lane=Lane.BATCH,
            prompt_ids=drafted.prompt_ids,
            sampling=drafted.sampling,
            created=self._batch.created_ms // 1_000,
            stream=False,
            attended=False,
            return_token_ids=drafted.return_token_ids,
            echo=drafted.echo,
        )
        ttl_ms = max(1, self._batch.expires_ms - self._resources.now_ms())
        return Submission(request=request, idempotency_key=None, body_hash="", ttl_ms=ttl_ms)

    # What callers see

    async def _save(self, *, now: bool) -> None:
        """Checkpoint, which renews the lease and brings word of a cancel."""
        clock = self._resources.clock()
        if not now and clock - self._saved_at < SAVE_S:
            return
        self._saved_at = clock
        progress = replace(counted(self._batch.progress, self._journal.tally), submitted=self._next)
        output_id = await self._show_output() if progress.completed else None
        await self._hold.update(BatchUpdate(progress=progress, output_file_id=output_id))

    async def _show_output(self) -> str:
        """The output file as far as it goes: its content comes out of the journal until it is whole."""
        record = growing_file(self._batch, "output", size=self._journal.prefix_bytes, ttl_s=self._resources.file_ttl_s)
        await self._resources.files.put(record)
        return record.id

    def _job_id(self, line: int) -> str:
        return line_job_id(self._batch.new.id, line, self._batch.created_ms, self._queue.shards)

    def _custom_id(self, line: int) -> str:
        return parse_line(self._lines[line]).custom_id


def _chunks(lines: Iterable[int], size: int = _CHUNK) -> Iterable[list[int]]:
    chunk: list[int] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
