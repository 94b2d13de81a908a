"""What `headrace/ports.py` promises to submitters, for every adapter: accepting and reading."""

import asyncio

import pytest

from headrace.cursor import START, LogPosition
from headrace.errors import IdempotencyConflict, JobNotFound, QueueFull
from headrace.ports import Append
from headrace.queues.rules import QueueLimits
from headrace.request import Lane
from headrace.state import State
from headrace.testing.bench import Bench

UNKNOWN = "00" + "f" * 29
FEW = QueueLimits(max_live_jobs=2, max_live_cost=1_000)
CHEAP = QueueLimits(max_live_jobs=100, max_live_cost=25)


class TestAccept:
    async def test_a_new_job_is_queued(self, bench: Bench) -> None:
        submission = bench.submission(ttl_ms=60_000)
        accepted = await bench.queue.accept(submission)
        assert (accepted.job_id, accepted.replayed) == (submission.request.id, False)
        job = await bench.queue.get("alice", accepted.job_id)
        assert job.request == submission.request
        assert (job.state, job.reason, job.epoch, job.committed, job.crashes) == (State.QUEUED, "", 0, 0, 0)
        assert (job.started_ms, job.ended_ms, job.cancel_requested) == (None, None, False)
        assert job.deadline_ms == job.accepted_ms + 60_000

    async def test_the_same_key_and_body_answer_with_the_first_job(self, bench: Bench) -> None:
        first = await bench.queue.accept(bench.submission(key="k"))
        again = await bench.queue.accept(bench.submission(key="k"))
        assert again.job_id == first.job_id
        assert again.replayed
        assert (await bench.queue.load()).lanes[0].queued == 1

    async def test_the_same_key_with_another_body_is_a_conflict(self, bench: Bench) -> None:
        job_id = await bench.submit(key="k")
        with pytest.raises(IdempotencyConflict, match=job_id):
            await bench.submit(key="k", body_hash="other")
        [claim] = await bench.claim()
        assert (claim.request.id, claim.epoch, claim.committed) == (job_id, 1, 0)

    async def test_a_key_belongs_to_its_tenant(self, bench: Bench) -> None:
        assert await bench.submit(key="k") != await bench.submit(key="k", tenant="bob", body_hash="other")

    async def test_tenant_and_key_are_not_confused(self, bench: Bench) -> None:
        await bench.submit(tenant="a", key="b:c")
        assert not (await bench.queue.accept(bench.submission(tenant="a:b", key="c", body_hash="other"))).replayed

    async def test_two_keyless_submissions_are_two_jobs(self, bench: Bench) -> None:
        assert await bench.submit() != await bench.submit()

    async def test_a_keyless_submission_is_known_by_its_id(self, bench: Bench) -> None:
        submission = bench.submission()
        await bench.queue.accept(submission)
        assert (await bench.queue.accept(submission)).replayed
        assert (await bench.queue.load()).lanes[0].queued == 1

    async def test_a_replay_answers_after_the_end_too(self, bench: Bench) -> None:
        job_id = await bench.submit(key="k")
        await bench.queue.cancel("alice", job_id)
        assert (await bench.queue.accept(bench.submission(key="k"))).job_id == job_id

    @pytest.mark.parametrize("limits", [FEW])
    async def test_the_bound_on_jobs(self, bench: Bench) -> None:
        first = await bench.submit(key="k")
        await bench.submit()
        with pytest.raises(QueueFull, match="2 live jobs, the limit is 2") as refused:
            await bench.submit()
        assert refused.value.retry_after > 0
        assert (await bench.queue.accept(bench.submission(key="k"))).replayed
        await bench.queue.cancel("alice", first)
        await bench.submit()

    @pytest.mark.parametrize("limits", [FEW])
    async def test_running_jobs_count_against_the_bound(self, bench: Bench) -> None:
        await bench.submit()
        await bench.submit()
        await bench.claim()
        with pytest.raises(QueueFull):
            await bench.submit()

    @pytest.mark.parametrize("limits", [CHEAP])
    async def test_the_bound_on_cost(self, bench: Bench) -> None:
        await bench.submit()  # 11 of 25
        await bench.submit()
        with pytest.raises(QueueFull, match="22 tokens of live jobs, the limit is 25"):
            await bench.submit()
        await bench.submit(max_tokens=1, prompt_ids=(1, 2))

    async def test_an_id_without_a_shard_of_this_store_is_refused(self, bench: Bench) -> None:
        with pytest.raises(ValueError, match=r"request\.id"):
            await bench.submit(job_id="07" + "0" * 29)
        with pytest.raises(ValueError, match=r"request\.id"):
            await bench.submit(job_id="job-1")

    async def test_concurrent_submissions_under_one_key_make_one_job(self, bench: Bench) -> None:
        accepted = await asyncio.gather(*(bench.queue.accept(bench.submission(key="k")) for _ in range(50)))
        assert len({one.job_id for one in accepted}) == 1
        assert sum(not one.replayed for one in accepted) == 1


class TestReads:
    @pytest.mark.parametrize("job_id", [UNKNOWN, "ff" + "0" * 29, "nonsense", ""])
    async def test_an_unknown_id(self, bench: Bench, job_id: str) -> None:
        for call in (bench.queue.get, bench.queue.cancel, bench.queue.queue_position):
            with pytest.raises(JobNotFound):
                await call("alice", job_id)
        with pytest.raises(JobNotFound):
            await bench.queue.read_log("alice", job_id, START, 10)
        with pytest.raises(JobNotFound):
            await bench.queue.list_jobs("alice", after=job_id, limit=10)

    async def test_another_tenants_job_does_not_exist(self, bench: Bench) -> None:
        job_id = await bench.submit(tenant="alice")
        await bench.submit(tenant="bob")
        for call in (bench.queue.get, bench.queue.cancel, bench.queue.queue_position):
            with pytest.raises(JobNotFound):
                await call("bob", job_id)
        with pytest.raises(JobNotFound):
            await bench.queue.read_log("bob", job_id, START, 10)
        with pytest.raises(JobNotFound):
            await bench.queue.list_jobs("bob", after=job_id, limit=10)
        assert await bench.state(job_id) is State.QUEUED
        assert job_id not in [job.request.id for job in await bench.queue.list_jobs("bob", after=None, limit=10)]

    async def test_pages_are_newest_first_without_gaps(self, bench: Bench) -> None:
        ids = [await bench.submit() for _ in range(7)]
        await bench.claim(max_jobs=2)
        seen: list[str] = []
        while page := await bench.queue.list_jobs("alice", after=seen[-1] if seen else None, limit=3):
            seen += [job.request.id for job in page]
        assert seen == ids[::-1]

    async def test_lines_of_batch_files_are_not_listed(self, bench: Bench) -> None:
        older, line, newer = await bench.submit(), await bench.submit(lane=Lane.BATCH), await bench.submit(lane=Lane.INTERACTIVE)
        assert [job.request.id for job in await bench.queue.list_jobs("alice", after=None, limit=10)] == [newer, older]
        assert [job.request.id for job in await bench.queue.list_jobs("alice", after=line, limit=10)] == [older]
        assert (await bench.queue.get("alice", line)).state is State.QUEUED

    async def test_where_many_jobs_stand(self, bench: Bench) -> None:
        done, running, queued = [await bench.submit() for _ in range(3)]
        others = await bench.submit(tenant="bob", lane=Lane.BATCH)
        await bench.claim(max_jobs=2)
        await bench.finish(done, 1, 0)
        states = await bench.queue.states([others, queued, UNKNOWN, done, running, done])
        assert states == [State.QUEUED, State.QUEUED, None, State.DONE, State.RUNNING, State.DONE]
        assert await bench.queue.states([]) == []

    async def test_where_very_many_jobs_stand(self, bench: Bench) -> None:
        """More than a store answers in one breath, in their order all the same."""
        known = [await bench.submit(), await bench.submit()]
        await bench.queue.cancel("alice", known[1])
        unknown = [f"00{i:029x}" for i in range(2_500)]
        states = await bench.queue.states([known[0], *unknown, known[1]])
        assert states == [State.QUEUED, *[None] * 2_500, State.CANCELLED]

    async def test_many_jobs_are_read_as_one_by_one(self, bench: Bench) -> None:
        first, second, others = await bench.submit(), await bench.submit(lane=Lane.BATCH), await bench.submit(tenant="bob")
        await bench.claim(max_jobs=1)
        await bench.append(first, 1, 0, 2)
        expected = [await bench.queue.get("alice", job_id) for job_id in (second, first)]
        jobs = await bench.queue.get_many("alice", [second, UNKNOWN, others, "nonsense", "", "ff" + "0" * 29, first])
        assert jobs == [expected[0], None, None, None, None, None, expected[1]]
        assert await bench.queue.get_many("alice", []) == []

    async def test_positions_count_the_tenants_own_jobs_in_the_lane(self, bench: Bench) -> None:
        first, second = await bench.submit(), await bench.submit()
        others = await bench.submit(tenant="bob")
        batch = await bench.submit(lane=Lane.BATCH)
        assert [await bench.queue.queue_position("alice", job_id) for job_id in (first, second, batch)] == [1, 2, 1]
        assert await bench.queue.queue_position("bob", others) == 1
        await bench.claim(max_jobs=1)
        assert await bench.queue.queue_position("alice", first) is None
        assert await bench.queue.queue_position("alice", second) == 1

    async def test_a_log_is_read_behind_a_position(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        assert await bench.queue.read_log("alice", job_id, START, 10) == []
        for start in range(0, 6, 2):
            await bench.append(job_id, 1, start, 2)
        await bench.finish(job_id, 1, 6)
        log = await bench.queue.read_log("alice", job_id, START, 10)
        assert [entry.position for entry in log] == [(1, 2), (1, 4), (1, 6), (1, 7)]
        assert log[1].token_ids == (2, 3)
        assert log[1].text == "<2><3>"
        assert (log[3].end, log[3].reason, log[3].token_ids) == (State.DONE, "stop", ())
        assert await bench.queue.read_log("alice", job_id, log[1].position, 1) == [log[2]]
        assert await bench.queue.read_log("alice", job_id, LogPosition(1, 3), 10) == log[1:]
        assert await bench.queue.read_log("alice", job_id, log[3].position, 10) == []

    async def test_many_logs_in_one_call(self, bench: Bench) -> None:
        a, b = await bench.submit(), await bench.submit(tenant="bob")
        await bench.claim()
        await bench.append(a, 1, 0, 3)
        await bench.append(b, 1, 0, 1)
        logs = await bench.queue.read_logs([(b, START), (UNKNOWN, START), (a, START), (a, LogPosition(1, 3))], 10)
        assert [[entry.position.n for entry in log] for log in logs] == [[1], [], [3], []]
        assert await bench.queue.read_logs([], 10) == []

    async def test_text_of_any_script_survives(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        text = 'né\u2028"\\\n😀\x00'
        await bench.queue.append([Append(job_id=job_id, epoch=1, start=0, token_ids=(0, 2**31), text=text, choice=3)])
        (entry,) = await bench.queue.read_log("alice", job_id, START, 10)
        assert (entry.text, entry.token_ids, entry.choice) == (text, (0, 2**31), 3)
