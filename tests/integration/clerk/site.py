"""A place where clerks work, in tests: a store, a queue with a scripted worker, a folder of files, and batches whose answers are known."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from headrace.batch import BATCH_ENDED, Batch, BatchStatus, NewBatch
from headrace.batch_ports import BlobStore
from headrace.file import Purpose
from headrace.files.folder import FolderBlobs
from headrace.files.journals import Journals
from headrace.files.workspace import Workspace, workspaces
from headrace.ids import new_batch_id, new_file_id
from headrace.ports import JobQueue
from headrace.queues.rules import QueueLimits
from headrace.request import Endpoint, Request
from headrace.state import State
from headrace.testing.cut import Cut, Pause
from headrace.testing.eventually import eventually
from headrace.testing.memory_topics import MemoryTopics
from headrace.testing.queue.memory import MemoryQueue
from headrace.testing.registry_bench import RegistryBench
from headrace.testing.scripted_worker import PANGRAM, Pace, Script, ScriptedWorker
from headrace.testing.words import WordPrompter
from headrace.wire.prompter import Prompters
from scheduler.batches.clerk import Clerk
from scheduler.batches.hold import LEASE_MS
from scheduler.batches.resources import Resources
from scheduler.batches.rest import Rest
from scheduler.batches.sweep import sweep
from scheduler.batches.validate import InputLimits

TENANT = "alice"
WINDOW_MS = 3_600_000
LINES = 5
PROMPTER = WordPrompter(context_length=200)


def line(number: int, **body: Any) -> bytes:
    whole = {"model": "m", "messages": [{"role": "user", "content": f"line {number}"}], "max_tokens": 20} | body
    return orjson.dumps({"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": whole}) + b"\n"


GOOD = b"".join(line(number) for number in range(LINES))


@dataclass
class Site:
    """A store, a queue with a worker, and a folder; clerks come and go."""

    registries: RegistryBench
    queue: MemoryQueue
    root: Path
    blobs: FolderBlobs
    pace: Pace
    prompters: Prompters = lambda _model: PROMPTER
    topics: MemoryTopics = field(default_factory=MemoryTopics)
    rest: Rest = field(default_factory=Rest)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Of the clerks that begin from now on."""

    async def upload(self, content: bytes) -> str:
        scratch = self.blobs.scratch()
        scratch.write_bytes(content)
        record = self.registries.file(id=new_file_id(), tenant=TENANT, purpose=Purpose.BATCH, size=len(content))
        self.blobs.publish(scratch, record.id)
        await self.registries.add(record)
        return record.id

    async def create(self, content: bytes, **fields: Any) -> str:
        file_id = await self.upload(content)
        new = NewBatch(id=new_batch_id(), tenant=TENANT, endpoint=Endpoint.CHAT, input_file_id=file_id, **fields)
        await self.registries.create(new, window_ms=WINDOW_MS)
        return new.id

    def resources(self, cut: Cut) -> Resources:
        queue: JobQueue = cut.watch(self.queue)
        blobs: BlobStore = cut.watch(self.blobs)
        return Resources(
            queue=queue,
            files=cut.watch(self.registries.files),
            batches=cut.watch(self.registries.batches),
            blobs=blobs,
            journals=Journals(),
            prompters=self.prompters,
            root=self.root,
            limits=InputLimits(bytes=1_000_000, lines=100, line_bytes=10_000),
            file_ttl_s=1_000,
            clock=lambda: self.registries.now_ms / 1_000,
            now_ms=lambda: self.registries.now_ms,
            topics=cut.watch(self.topics),
            rest=self.rest,
            stop=self.stop,
        )

    async def batch(self, batch_id: str) -> Batch:
        return await self.registries.batches.get(TENANT, batch_id)

    async def work(self, batch_id: str, cut: Cut, until: Callable[[], bool] = lambda: False) -> None:
        await Clerk(self.resources(cut)).work_on(batch_id, until)

    async def sweep(self) -> None:
        await sweep(self.resources(Cut()), retention_ms=10**9)

    async def finish(self, batch_id: str) -> Batch:
        """Let clerks work, as the dispatcher would send them, until the batch has ended."""

        async def ended() -> Batch | None:
            for due in await self.registries.batches.dispatch(10, 1_000):
                await self.work(due, Cut())
            await self.registries.advance(1_000)
            batch = await self.batch(batch_id)
            return batch if batch.status in BATCH_ENDED else None

        return await eventually(ended)

    def journal(self, batch_id: str) -> Path:
        return Workspace(self.root, batch_id).journal

    def content(self, file_id: str | None) -> list[Any]:
        if file_id is None:
            return []
        with self.blobs.open(file_id) as file:
            return [orjson.loads(one) for one in file.read().splitlines()]


def answer(request: Request) -> Script:
    """A line whose limit is 13 fails; the others answer, each with words of its own."""
    if request.sampling.max_tokens == 13:
        return Script(("boom",), State.FAILED, "the script says so")
    return Script((*PANGRAM, f" {fingerprint(request.prompt_ids)}", ""))


def fingerprint(prompt_ids: Sequence[int]) -> int:
    return sum(place * token for place, token in enumerate(prompt_ids))


def answer_of(number: int) -> str:
    """What `line(number)` is answered with."""
    [message] = orjson.loads(line(number))["body"]["messages"]
    return f"{''.join(PANGRAM)} {fingerprint(PROMPTER.chat([message]))}"


@asynccontextmanager
async def open_site(
    url: str, root: Path, *, queue: type[MemoryQueue] = MemoryQueue, limits: QueueLimits | None = None
) -> AsyncIterator[Site]:
    registries = await RegistryBench.connect(url)
    made = queue(clock=lambda: registries.now_ms, limits=limits)
    pace = Pace()
    try:
        async with ScriptedWorker(made, model="m", script=answer, pace=pace).run():
            yield Site(registries, made, root, FolderBlobs(root), pace)
        await registries.audit()
    finally:
        await registries.aclose()


def check_complete(site: Site, batch: Batch, lines: int = LINES) -> None:
    """Every one of the first `lines` lines is answered, in order, with its own answer."""
    assert batch.status is BatchStatus.COMPLETED
    assert batch.error_file_id is None
    answers = site.content(batch.output_file_id)
    assert [one["custom_id"] for one in answers] == [f"line-{number}" for number in range(lines)]
    assert [one["response"]["body"]["choices"][0]["message"]["content"] for one in answers] == [
        answer_of(number) for number in range(lines)
    ]
    assert (batch.progress.total, batch.progress.completed, batch.progress.failed) == (lines, lines, 0)
    assert batch.progress.output_tokens == lines * (len(PANGRAM) + 2)
    assert list(workspaces(site.root)) == []


async def turns(site: Site, batch_id: str, count: int) -> None:
    """A clerk looks at the batch so often, and leaves it."""
    left = iter(range(count - 1))
    await site.work(batch_id, Cut(), until=lambda: next(left, None) is None)


async def overtake(site: Site, batch_id: str, k: int) -> tuple[Batch, bool]:
    """A clerk is stopped in front of call `k` for longer than its lease, and goes on when others have brought the batch to its end. The
    batch as they left it, and whether there was such a call."""
    paused, go_on = asyncio.Event(), asyncio.Event()
    zombie = asyncio.create_task(site.work(batch_id, Pause(k, paused, go_on)))
    waiting = asyncio.create_task(paused.wait())
    await asyncio.wait([zombie, waiting], return_when=asyncio.FIRST_COMPLETED)
    await site.registries.advance(LEASE_MS + 1)
    batch = await site.finish(batch_id)
    go_on.set()
    await zombie
    waiting.cancel()
    assert await site.batch(batch_id) == batch
    return batch, paused.is_set()
