"""The queue on Redis ≥ 7.0 or Valkey ≥ 7.2.

One function of the library in `*.lua` per transition; one round trip for a call, however many jobs it is about.
"""

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import chain
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter

from headrace.cursor import LogPosition
from headrace.death import Death
from headrace.errors import SchemaUnknown
from headrace.ids import shard_of
from headrace.job import Job, LogEntry
from headrace.load import Depth, Ending, Load
from headrace.ports import Append, Claim, Doorbell, Finish, Held, Verdict
from headrace.queues import rules
from headrace.queues.deaths import decode_deaths
from headrace.queues.doorbell import doorbell
from headrace.queues.entry import decode_entry, encode_append
from headrace.queues.intake import RedisIntake
from headrace.queues.server import Command
from headrace.queues.shards import check_standing
from headrace.request import Lane, decode_request
from headrace.state import Fault, State
from headrace.worker_status import WorkerStatus

WAKE, WORK = "headrace:wake", "headrace:work"

logger = logging.getLogger(__name__)

UNKNOWN_DELAY_MS = 5_000
"""How long a job waits that this version cannot read."""

IDS_PER_CALL = 1_000
"""The server does nothing else while a function runs: what is asked about a whole batch goes in several calls, in one round trip."""

_STATUS = TypeAdapter(WorkerStatus)


class _OfJob(Protocol):
    @property
    def job_id(self) -> str: ...


T = TypeVar("T", bound=_OfJob)


class RedisQueue(RedisIntake):
    """Implements JobQueue, Intake, WorkQueue and Housekeeping. Bounds hold per shard, and so do the limits of sweeps."""

    # Submitters

    async def ping(self) -> None:
        await self._everywhere("ping")

    async def get(self, tenant: str, job_id: str) -> Job:
        return _job(await self._owned("get", tenant, job_id))

    async def list_jobs(self, tenant: str, *, after: str | None, limit: int) -> list[Job]:
        behind = None if after is None else (await self._arrival(tenant, after), after)
        newest = "+inf" if behind is None else behind[0]
        # One more than asked for: `after` itself comes first in its shard.
        pages = await self._everywhere("list", tenant, newest, limit + 1)
        found = sorted(chain.from_iterable(map(_arrivals, pages)), reverse=True)
        chosen = [job_id for arrival, job_id in found if behind is None or (arrival, job_id) < behind][:limit]
        return [job for job in await self.get_many(tenant, chosen) if job is not None]

    async def queue_position(self, tenant: str, job_id: str) -> int | None:
        (rank,) = await self._owned("position", tenant, job_id)
        return None if rank is None else int(rank) + 1

    async def read_log(self, tenant: str, job_id: str, after: LogPosition, limit: int) -> list[LogEntry]:
        shard = self._shard(job_id)
        # Not one transaction: the log comes first, so that a purge in between shows in the standing.
        entries, standing = await self._server.run(self._range(job_id, after, limit), self._fcall(shard, "owner", tenant, job_id))
        check_standing(standing, job_id)
        return [decode_entry(entry) for entry in entries]

    async def read_logs(self, wants: Sequence[tuple[str, LogPosition]], limit: int) -> list[list[LogEntry]]:
        logs = await self._server.run(*(self._range(job_id, after, limit) for job_id, after in wants))
        return [[decode_entry(entry) for entry in log] for log in logs]

    async def states(self, job_ids: Sequence[str]) -> list[State | None]:
        parts = _in_parts(job_ids)
        replies = await self._server.run(*(self._fcall(shard, "states", *(job_ids[i] for i in where)) for shard, where in parts))
        found: list[State | None] = [None] * len(job_ids)
        for (_, where), states in zip(parts, replies, strict=True):
            for i, state in zip(where, states, strict=True):
                found[i] = None if state is None else State(state.decode())
        return found

    async def get_many(self, tenant: str, job_ids: Sequence[str]) -> list[Job | None]:
        known = [i for i, job_id in enumerate(job_ids) if self._is_ours(job_id)]
        replies = await self._server.run(*(self._fcall(shard_of(job_ids[i]), "get", tenant, job_ids[i]) for i in known))
        found: list[Job | None] = [None] * len(job_ids)
        for i, (standing, *fields) in zip(known, replies, strict=True):
            found[i] = _readable(fields) if standing == b"mine" else None
        return found

    async def forget(self, job_ids: Sequence[str]) -> None:
        keep_ms = self._limits.retention_ms
        parts = _in_parts(job_ids)
        await self._server.run(*(self._fcall(shard, "forget", keep_ms, *(job_ids[i] for i in where)) for shard, where in parts))

    async def cancel(self, tenant: str, job_id: str) -> State:
        (state,) = await self._owned("cancel", tenant, job_id)
        return State(state.decode())

    async def attend(self, job_ids: Sequence[str]) -> None:
        shards = _by_shard(job_ids, lambda job_id: job_id)
        grace = self._limits.viewer_grace_ms
        await self._server.run(*(self._fcall(shard, "attend", grace, *(job_ids[i] for i in where)) for shard, where in shards.items()))

    def log_doorbell(self) -> AbstractAsyncContextManager[Doorbell]:
        return doorbell(self._server.new_client(), WAKE)

    async def load(self) -> Load:
        prefixes = [self._prefix(shard) for shard in range(self._shards)]
        replies = await self._server.run(
            *(("HGETALL", p + "depth") for p in prefixes),
            *(("ZCARD", p + "lease") for p in prefixes),
            *(("ZCARD", p + "delay") for p in prefixes),
            *(("HGETALL", p + "counters") for p in prefixes),
        )
        n = self._shards
        depths: dict[tuple[str, Lane], int] = {}
        for field, count in chain.from_iterable(table.items() for table in replies[:n]):
            lane, model = field.decode().split(":", 1)
            depths[model, Lane(lane)] = depths.get((model, Lane(lane)), 0) + int(count)
        return Load(
            lanes=tuple(Depth(model, lane, count) for (model, lane), count in sorted(depths.items())),
            running=sum(replies[n : 2 * n]),
            delayed=sum(replies[2 * n : 3 * n]),
            cost=sum(int(counters.get(b"cost", 0)) for counters in replies[3 * n :]),
            ended=_endings(replies[3 * n :]),
        )

    async def workers(self) -> list[WorkerStatus]:
        reports = [_STATUS.validate_json(report) for report in await self._call(0, "workers")]
        return sorted(reports, key=lambda status: status.worker)

    async def swept_ms_ago(self) -> int | None:
        ago: int | None = await self._call(0, "swept_ago")
        return ago

    # Workers

    async def claim(
        self, *, worker: str, nonce: str, models: Sequence[str], lanes: Sequence[Lane], max_jobs: int, max_tokens: int, lease_ms: int
    ) -> list[Claim]:
        claims: list[Claim] = []
        for shard, lanes_there, nonce_there in await self._walk(worker, nonce, models, lanes):
            budget = (lease_ms, max_jobs - len(claims), max_tokens)
            stuck, taken = await self._call(shard, "claim", worker, nonce_there, *budget, len(models), *models, *lanes_there)
            new = await self._claims(taken)
            max_tokens -= sum(claim.request.room + claim.committed for claim in new)
            claims += new
            if stuck or len(claims) >= max_jobs:
                break
        return claims

    async def summon(self, *, worker: str, models: Sequence[str]) -> bool:
        return any(await self._everywhere("summon", worker, *models))

    async def claim_suspect(self, *, worker: str, nonce: str, models: Sequence[str], lease_ms: int) -> Claim | None:
        # There are hardly ever any, so all shards are looked at in one round trip; then they are asked one by one: only one may be taken.
        looks = await self._everywhere("suspects", worker, nonce, *models)
        wanted = b"known" if b"known" in looks else b"work"
        for shard in (shard for shard, look in enumerate(looks) if look == wanted):
            taken = await self._call(shard, "claim_suspect", worker, nonce, lease_ms, *models)
            if claims := await self._claims(taken):
                return claims[0]
        return None

    async def append(self, appends: Sequence[Append]) -> list[Verdict]:
        rules.check_appends(appends)

        def arguments(one: Append) -> Command:
            cached = "" if one.cached_tokens is None else one.cached_tokens
            return one.job_id, one.epoch, one.start, len(one.token_ids), encode_append(one), cached

        return await self._verdicts("commit", appends, arguments)

    async def renew(self, held: Sequence[Held], lease_ms: int) -> list[Verdict]:
        return await self._verdicts("renew", held, lambda one: (one.job_id, one.epoch), lease_ms)

    async def finish(self, finishes: Sequence[Finish]) -> list[Verdict]:
        rules.check_finishes(finishes)
        return await self._verdicts("finish", finishes, lambda one: (one.job_id, one.epoch, one.committed, one.state, one.reason))

    async def release(self, held: Sequence[Held], delay_ms: int) -> list[Verdict]:
        return await self._verdicts("release", held, lambda one: (one.job_id, one.epoch), delay_ms)

    async def report(self, status: WorkerStatus, ttl_ms: int) -> None:
        await self._call(0, "report", status.worker, _STATUS.dump_json(status), ttl_ms)

    async def reap_worker(self, worker: str) -> list[str]:
        replies = await self._everywhere("reap_worker", worker, self._limits.max_solo_crashes)
        return [job_id.decode() for job_id in chain.from_iterable(replies)]

    def work_doorbell(self) -> AbstractAsyncContextManager[Doorbell]:
        return doorbell(self._server.new_client(), WORK)

    # Housekeeping

    async def reap_expired(self, limit: int) -> int:
        return sum(await self._everywhere("reap_expired", limit, self._limits.max_solo_crashes))

    async def deaths(self, limit: int) -> list[Death]:
        return [death for reply in await self._everywhere("deaths", limit) for death in decode_deaths(reply)]

    async def promote(self, limit: int) -> int:
        return sum(await self._everywhere("promote", limit))

    async def expire(self, limit: int) -> int:
        return sum(await self._everywhere("expire", limit))

    async def cancel_unattended(self, limit: int) -> int:
        return sum(await self._everywhere("cancel_unattended", limit))

    async def purge(self, limit: int) -> int:
        return sum(await self._everywhere("purge", limit, self._limits.retention_ms))

    async def forget_lapsed(self, limit: int) -> int:
        return sum(await self._everywhere("forget_lapsed", limit))

    async def end_round(self) -> None:
        await self._call(0, "end_round")

    # Shared

    async def _arrival(self, tenant: str, job_id: str) -> int:
        """Raises JobNotFound, for a purged job too: nothing can be listed behind it."""
        standing, *fields = await self._call(self._shard(job_id), "get", tenant, job_id)
        if standing != b"mine":
            raise rules.not_found(job_id)
        return int(fields[-1])

    async def _walk(self, worker: str, nonce: str, models: Sequence[str], lanes: Sequence[Lane]) -> list[tuple[int, Sequence[Lane], str]]:
        """The calls a claim consists of: (shard, lanes, nonce).

        With several shards each lane is asked for everywhere before the next one, to keep its priority, but only where a look in one round
        trip found work. If the look finds this very claim it is a repeat, and only what the first call took is fetched again.
        """
        if self._shards == 1:
            return [(0, lanes, nonce)]
        looks = await self._everywhere("peek", worker, nonce, len(models), *models, *lanes)
        wanted = b"known" if any(b"known" in look for look in looks) else b"work"
        first = random.randrange(self._shards)
        order = [(first + i) % self._shards for i in range(self._shards)]
        return [(shard, [lane], f"{nonce}:{lane}") for i, lane in enumerate(lanes) for shard in order if looks[shard][i] == wanted]

    async def _claims(self, taken: Sequence[Sequence[Any]]) -> list[Claim]:
        """What this version cannot read goes back to wait for a newer worker."""
        claims: list[Claim] = []
        unknown: list[Held] = []
        for job_id, epoch, committed, body in taken:
            try:
                claims.append(Claim(request=decode_request(body), epoch=epoch, committed=committed))
            except SchemaUnknown as error:
                logger.error("job %s goes back to wait for a newer worker: %s", job_id.decode(), error)
                unknown.append(Held(job_id.decode(), epoch))
        if unknown:
            await self.release(unknown, UNKNOWN_DELAY_MS)
        return claims

    async def _verdicts(self, function: str, items: Sequence[T], arguments: Callable[[T], Command], *head: Any) -> list[Verdict]:
        """One call per shard for all items; verdicts in the order of the items."""
        shards = _by_shard(items, lambda item: item.job_id)
        calls = [
            self._fcall(shard, function, *head, *chain.from_iterable(arguments(items[i]) for i in where)) for shard, where in shards.items()
        ]
        verdicts = [Verdict.FENCED] * len(items)
        for where, reply in zip(shards.values(), await self._server.run(*calls), strict=True):
            for i, verdict in zip(where, reply, strict=True):
                verdicts[i] = Verdict(verdict.decode())
        return verdicts


def _by_shard(items: Sequence[Any], job_id: Callable[[Any], str]) -> dict[int, list[int]]:
    """Indices of the items in each shard, in order."""
    shards: dict[int, list[int]] = {}
    for i, item in enumerate(items):
        shards.setdefault(shard_of(job_id(item)), []).append(i)
    return shards


def _in_parts(job_ids: Sequence[str]) -> list[tuple[int, list[int]]]:
    """Indices of ids in the same shard, few enough for one call."""
    shards = _by_shard(job_ids, lambda job_id: job_id)
    return [(shard, where[i : i + IDS_PER_CALL]) for shard, where in shards.items() for i in range(0, len(where), IDS_PER_CALL)]


def _arrivals(flat: Sequence[bytes]) -> Iterable[tuple[int, str]]:
    return ((int(arrival), job_id.decode()) for job_id, arrival in zip(flat[::2], flat[1::2], strict=True))


def _endings(counters: Iterable[Mapping[bytes, bytes]]) -> tuple[Ending, ...]:
    """Of the hashes `counters` of all shards, whose fields `ended:<state>[:<fault>]` functions.lua writes."""
    jobs: Counter[str] = Counter()
    for field, count in chain.from_iterable(of_shard.items() for of_shard in counters):
        if field.startswith(b"ended:"):
            jobs[field.decode()] += int(count)
    hows = ((field.split(":"), jobs[field]) for field in sorted(jobs))
    return tuple(Ending(State(how[1]), Fault(how[2]) if how[2:] else None, count) for how, count in hows)


def _readable(fields: Sequence[Any]) -> Job | None:
    """None for what this version cannot read: one such job must not hide the others."""
    try:
        return _job(fields)
    except SchemaUnknown as error:
        logger.error("a job is left out: %s", error)
        return None


def _job(fields: Sequence[Any]) -> Job:
    body, state, reason, epoch, committed, crashes, cancel, accepted, started, ended, deadline, _ = fields
    return Job(
        request=decode_request(body),
        state=State(state.decode()),
        reason=reason.decode(),
        epoch=int(epoch),
        committed=int(committed),
        crashes=int(crashes),
        cancel_requested=cancel is not None,
        accepted_ms=int(accepted),
        started_ms=None if started is None else int(started),
        ended_ms=None if ended is None else int(ended),
        deadline_ms=int(deadline),
    )
