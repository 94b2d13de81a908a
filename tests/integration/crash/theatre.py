"""A store, and one story after the other in it, each with one thing that goes wrong."""

import asyncio
import os
import traceback
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest

from headrace.cursor import START
from headrace.embedded import EmbeddedValkey
from headrace.errors import JobPurged
from headrace.job import Job
from headrace.keys import ANYBODY
from headrace.testing.bench import Outcome, RedisBench
from headrace.testing.fuse import KILLED, Blow, Fuse
from headrace.testing.queue.intake import unix_ms
from tests.integration.crash.story import LEASES_LAPSE, PROMPT_IDS, Act, Actor, Stage, Story, make_app, reap
from workers.backends.scripted import answer_to, text_of


class Theatre:
    def __init__(self, story: Story, url: str, files_dir: Path, shards: int) -> None:
        self._story = story
        self._acts = (*story.acts, *story.epilogue)
        self._runner = asyncio.Runner()
        self._run = self._runner.run
        self._url = url
        self._shards = shards
        # On a loop of its own, whose thread ends with it: this process is to be forked.
        self._app = asyncio.run(make_app(url, files_dir))
        self._bench = self._run(RedisBench.connect(url, story.limits, shards))
        self._run(self._bench.raw.config_set("appendonly", "no"))  # no server dies here, and every command of every run would be synced
        self.commands: list[str] = []
        """What an undisturbed story sends, in order."""
        self.acts: list[range] = []
        """Which of them, counted from 1, are sent in which act."""
        self._rehearse()

    def close(self) -> None:
        self._run(self._bench.aclose())
        self._runner.close()

    def _rehearse(self) -> None:
        fuse = Fuse()
        stage = self._open(fuse)
        counts = []
        for act in self._acts:
            before = len(fuse.seen)
            self._play(act, stage)
            counts.append(len(fuse.seen) - before)
        self.commands = fuse.seen
        self.acts = [range(first + 1, last + 1) for first, last in pairwise(accumulate(counts, initial=0))]

    def tell(self, fuse: Fuse) -> None:
        """The whole story with this fuse. Asserts that it blows where it should, and all that must be true in the end."""
        stage = self._open(fuse)
        act_of_blow, commands = next((act, commands) for act, commands in zip(self._acts, self.acts, strict=True) if fuse.at in commands)
        fatal, before = (act_of_blow, commands.start - 1) if fuse.blow.deadly else (None, fuse.at)
        jobs: dict[str, Job] = {}
        for act in self._acts:
            if act is self._story.epilogue[0]:
                jobs = self._run(self._check_ends(stage))
            if act is fatal:
                self._die(act, stage)
            else:
                self._play(act, stage)
        assert fuse.seen[:before] == self.commands[:before], "the same command is another one in this run"
        self._run(self._check_void(jobs))

    def _open(self, fuse: Fuse) -> Stage:
        self._run(self._bench.raw.flushall())
        self._run(self._bench.raw.function_flush())
        self._bench.now_ms = unix_ms()  # entries of the outbox are named by the server's own clock, and kept by ours
        self._run(self._bench.advance(0))
        return self._story.open(self._url, self._app, fuse, self._shards)

    def _play(self, act: Act, stage: Stage) -> None:
        stage.starts += act.actor is Actor.WORKER
        asyncio.run(act.play(stage))  # whose threads end with it, as above

    def _die(self, act: Act, stage: Stage) -> None:
        """The act in a process that does not survive it, and what others do about that."""
        stage.starts += act.actor is Actor.WORKER
        assert ends_with(act.play, stage) == KILLED
        stage.fuse.at = 0
        match act.actor:
            case Actor.API | Actor.SCHEDULER | Actor.PUMP:
                self._play(act, stage)
            case Actor.WORKER:
                # Its supervisor sees it, or died with it: either must do.
                self._run(LEASES_LAPSE(stage) if stage.fuse.blow is Blow.DEAD_BEHIND else reap(stage))
                self._play(act, stage)
            case Actor.SUPERVISOR:
                pass  # the next one knows nothing of the workers of the last one: the lease must do

    async def _check_ends(self, stage: Stage) -> dict[str, Job]:
        jobs = {job.request.id: job for job in await self._bench.queue.list_jobs(ANYBODY, after=None, limit=100)}
        await self._story.check(stage, jobs)
        told = [Outcome(job_id, ANYBODY, job.state, job.reason or "") for job_id, job in jobs.items()]
        assert sorted(await self._bench.outbox()) == sorted(told)
        for job in jobs.values():
            await self._check_log(job)
        await self._check_counts()
        return jobs

    async def _check_log(self, job: Job) -> None:
        log = await self._bench.queue.read_log(ANYBODY, job.request.id, START, 1_000)
        tokens = answer_to(PROMPT_IDS, job.committed)
        assert tuple(token for entry in log for token in entry.token_ids) == tokens
        assert "".join(entry.text for entry in log) == text_of(tokens)
        assert [entry.end for entry in log] == [None] * (len(log) - 1) + [job.state]
        counts = [*accumulate(len(entry.token_ids) for entry in log[:-1]), job.committed + 1]
        assert [entry.position.n for entry in log] == counts
        epochs = [entry.position.epoch for entry in log]
        assert epochs == sorted(epochs)

    async def _check_counts(self) -> None:
        await self._bench.audit()
        load = await self._bench.queue.load()
        assert (load.cost, load.running, load.delayed, sum(lane.queued for lane in load.lanes)) == (0, 0, 0, 0)

    async def _check_void(self, jobs: Iterable[str]) -> None:
        for job_id in jobs:
            with pytest.raises(JobPurged):
                await self._bench.queue.get(ANYBODY, job_id)
        assert await self._bench.outbox() == []
        await self._check_counts()


def ends_with(play: Callable[[Stage], Coroutine[Any, Any, None]], stage: Stage) -> int:
    """The exit code of a process that plays this. A fork, as hundreds of them are made."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(play(stage))
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def opened(story: Story, folder: Path, shards: int) -> Iterator[Theatre]:
    """In a store of its own. `folder` has a short name: the store's socket is in it."""
    server = EmbeddedValkey(folder)
    server.start()
    files = folder / "files"
    files.mkdir()
    theatre = Theatre(story, server.url, files, shards)
    yield theatre
    theatre.close()
    server.stop()
