"""What `headrace/ports.py` promises, for every adapter: accepting, reading, claiming, writing, ending."""

import asyncio

import pytest

from headrace.cursor import LogPosition
from headrace.errors import IdempotencyConflict, JobNotFound, QueueFull
from headrace.ports import START, Append, Finish, Held, Verdict
from headrace.queues.rules import QueueLimits, crash_delay_ms
from headrace.request import Lane
from headrace.state import State
from headrace.testing.bench import LEASE_MS, MODEL, Bench, Outcome

UNKNOWN = "00" + "f" * 29
FEW = QueueLimits(max_live_jobs=2, max_live_cost=1_000)
CHEAP = QueueLimits(max_live_jobs=100, max_live_cost=25)


async def state(bench: Bench, job_id: str, tenant: str = "alice") -> State:
    return (await bench.queue.get(tenant, job_id)).state


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
        await bench.submit(key="k")
        with pytest.raises(IdempotencyConflict):
            await bench.submit(key="k", body_hash="other")

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
        assert await state(bench, job_id) is State.QUEUED
        assert job_id not in [job.request.id for job in await bench.queue.list_jobs("bob", after=None, limit=10)]

    async def test_pages_are_newest_first_without_gaps(self, bench: Bench) -> None:
        ids = [await bench.submit() for _ in range(7)]
        await bench.claim(max_jobs=2)
        seen: list[str] = []
        while page := await bench.queue.list_jobs("alice", after=seen[-1] if seen else None, limit=3):
            seen += [job.request.id for job in page]
        assert seen == ids[::-1]

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


class TestClaim:
    async def test_a_claim_carries_the_request_and_a_new_epoch(self, bench: Bench) -> None:
        submission = bench.submission()
        await bench.queue.accept(submission)
        (claim,) = await bench.claim()
        assert (claim.request, claim.epoch, claim.committed) == (submission.request, 1, 0)
        job = await bench.queue.get("alice", claim.request.id)
        assert (job.state, job.epoch, job.started_ms) == (State.RUNNING, 1, job.accepted_ms)
        assert await bench.claim("w2") == []

    async def test_an_empty_queue(self, bench: Bench) -> None:
        assert await bench.claim() == []

    async def test_lanes_in_the_order_given(self, bench: Bench) -> None:
        batch, standard, interactive = [await bench.submit(lane=lane) for lane in (Lane.BATCH, Lane.STANDARD, Lane.INTERACTIVE)]
        assert [claim.request.id for claim in await bench.claim(max_jobs=2)] == [interactive, standard]
        assert await bench.claim(lanes=[Lane.INTERACTIVE]) == []
        assert [claim.request.id for claim in await bench.claim(lanes=[Lane.BATCH])] == [batch]

    async def test_only_the_models_asked_for(self, bench: Bench) -> None:
        ours, other = await bench.submit(), await bench.submit(model="other:model")
        assert [claim.request.id for claim in await bench.claim()] == [ours]
        assert [claim.request.id for claim in await bench.claim(models=[MODEL, "other:model"])] == [other]

    async def test_a_tenants_own_jobs_by_arrival(self, bench: Bench) -> None:
        ids = [await bench.submit() for _ in range(5)]
        assert [claim.request.id for claim in await bench.claim()] == ids

    async def test_tenants_take_turns_by_tokens_served(self, bench: Bench) -> None:
        flood = [await bench.submit(tenant="alice", max_tokens=97) for _ in range(4)]  # 100 tokens each
        small = [await bench.submit(tenant="bob", max_tokens=47) for _ in range(4)]  # 50 each
        taken = [claim.request.id for claim in await bench.claim(max_jobs=6)]
        assert taken == [flood[0], small[0], small[1], flood[1], small[2], small[3]]

    async def test_who_comes_late_has_no_credit(self, bench: Bench) -> None:
        for _ in range(4):
            await bench.submit(tenant="bob")
        await bench.claim(max_jobs=2)
        await bench.submit(tenant="alice")
        await bench.submit(tenant="alice")
        assert [claim.request.tenant for claim in await bench.claim(max_jobs=4)] == ["alice", "bob", "alice", "bob"]

    async def test_a_job_that_comes_back_is_not_charged_again(self, bench: Bench) -> None:
        await bench.submit(tenant="alice")
        for _ in range(2):
            await bench.submit(tenant="bob")
        await bench.submit(tenant="alice")
        (first,) = await bench.claim(max_jobs=1)
        await bench.release(first.request.id, 1)
        assert [claim.request.tenant for claim in await bench.claim(max_jobs=4)] == ["bob", "alice", "alice", "bob"]

    async def test_stops_before_the_job_that_does_not_fit(self, bench: Bench) -> None:
        small = await bench.submit(prompt_ids=range(10))
        big = await bench.submit(prompt_ids=range(50))
        await bench.submit(prompt_ids=range(1))
        assert [claim.request.id for claim in await bench.claim(max_tokens=59)] == [small]
        assert await bench.claim(max_tokens=49) == []
        assert [claim.request.id for claim in await bench.claim(max_jobs=1, max_tokens=50)] == [big]

    async def test_a_large_job_is_not_overtaken_from_a_lower_lane(self, bench: Bench) -> None:
        await bench.submit(prompt_ids=range(50), lane=Lane.INTERACTIVE)
        await bench.submit(prompt_ids=range(1), lane=Lane.BATCH)
        assert await bench.claim(max_tokens=49) == []

    async def test_committed_tokens_count_against_the_budget(self, bench: Bench) -> None:
        job_id = await bench.submit(prompt_ids=range(10))
        await bench.claim()
        await bench.append(job_id, 1, 0, 5)
        await bench.release(job_id, 1)
        assert await bench.claim(max_tokens=14) == []
        (claim,) = await bench.claim(max_tokens=15)
        assert (claim.epoch, claim.committed) == (3, 5)

    async def test_the_same_nonce_answers_with_the_same_jobs(self, bench: Bench) -> None:
        await bench.submit()
        first = await bench.claim(nonce="once")
        await bench.submit()
        assert await bench.claim(nonce="once") == first
        assert [claim.epoch for claim in await bench.claim("w2", nonce="once")] == [1]

    async def test_a_repeated_claim_has_the_tokens_since(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim(nonce="once")
        await bench.append(job_id, 1, 0, 2)
        assert [claim.committed for claim in await bench.claim(nonce="once")] == [2]

    async def test_the_same_nonce_leaves_out_what_was_lost_since(self, bench: Bench) -> None:
        lost, ended, kept = [await bench.submit() for _ in range(3)]
        await bench.claim(nonce="once", max_jobs=3)
        await bench.release(lost, 1)
        await bench.finish(ended, 1, 0)
        assert [claim.request.id for claim in await bench.claim(nonce="once")] == [kept]
        await bench.claim("w1", nonce="twice")  # the lost one, under a newer epoch
        assert [claim.request.id for claim in await bench.claim(nonce="once")] == [kept]

    async def test_a_job_whose_deadline_passed_is_not_started(self, bench: Bench) -> None:
        late, good = await bench.submit(ttl_ms=1_000), await bench.submit(ttl_ms=60_000)
        await bench.advance(1_000)
        assert [claim.request.id for claim in await bench.claim()] == [good]
        job = await bench.queue.get("alice", late)
        assert (job.state, job.reason, job.started_ms) == (State.EXPIRED, "deadline", None)

    async def test_a_backlog_of_overdue_jobs_is_cleared_in_bounded_steps(self, bench: Bench) -> None:
        await asyncio.gather(*(bench.submit(ttl_ms=10) for _ in range(300)))
        good = await bench.submit()
        await bench.advance(10)
        claims = [claim.request.id for _ in range(4) for claim in await bench.claim(max_jobs=1)]
        assert claims == [good]
        assert len(await bench.outbox()) == 300


class TestAppend:
    async def test_tokens_in_order(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        assert await bench.append(job_id, 1, 0, 2) is Verdict.OK
        assert await bench.append(job_id, 1, 2, 1) is Verdict.OK
        assert (await bench.queue.get("alice", job_id)).committed == 3

    async def test_a_repeat_is_ok_and_writes_nothing(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        for _ in range(3):
            assert await bench.append(job_id, 1, 0, 2) is Verdict.OK
        await bench.append(job_id, 1, 2)
        assert await bench.append(job_id, 1, 0, 2) is Verdict.OK
        assert [entry.position.n for entry in await bench.queue.read_log("alice", job_id, START, 10)] == [2, 3]

    @pytest.mark.parametrize(("start", "tokens"), [(4, 1), (2, 2), (0, 1), (1, 2), (0, 4)])
    async def test_what_disagrees_with_the_log_is_a_gap(self, bench: Bench, start: int, tokens: int) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.append(job_id, 1, 0, 3)
        assert await bench.append(job_id, 1, start, tokens) is Verdict.GAP
        assert (await bench.queue.get("alice", job_id)).committed == 3

    async def test_tokens_of_an_earlier_epoch_are_no_repeat(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.append(job_id, 1, 0, 3)
        await bench.release(job_id, 1)
        await bench.claim()
        assert await bench.append(job_id, 3, 0, 3) is Verdict.GAP

    async def test_many_jobs_in_one_call(self, bench: Bench) -> None:
        a, b = await bench.submit(), await bench.submit()
        await bench.claim()
        verdicts = await bench.queue.append(
            [
                Append(job_id=b, epoch=1, start=0, token_ids=(7,), text="b"),
                Append(job_id=a, epoch=9, start=0, token_ids=(7,), text="x"),
                Append(job_id=a, epoch=1, start=0, token_ids=(7,), text="a"),
                Append(job_id=a, epoch=1, start=1, token_ids=(8,), text="a"),
                Append(job_id=UNKNOWN, epoch=1, start=0, token_ids=(7,), text="x"),
                Append(job_id=b, epoch=1, start=5, token_ids=(7,), text="x"),
            ]
        )
        assert verdicts == [Verdict.OK, Verdict.FENCED, Verdict.OK, Verdict.OK, Verdict.FENCED, Verdict.GAP]
        assert (await bench.queue.get("alice", a)).committed == 2
        assert await bench.queue.append([]) == []

    async def test_text_without_a_token_is_refused(self, bench: Bench) -> None:
        with pytest.raises(ValueError, match="has no token"):
            await bench.queue.append([Append(job_id=UNKNOWN, epoch=1, start=0, token_ids=(), text="rest")])

    async def test_the_owner_learns_that_the_deadline_passed(self, bench: Bench) -> None:
        job_id = await bench.submit(ttl_ms=1_000)
        await bench.claim()
        await bench.advance(1_000)
        assert await bench.append(job_id, 1, 0) is Verdict.EXPIRE
        assert await bench.renew(job_id, 1) is Verdict.EXPIRE
        assert (await bench.queue.get("alice", job_id)).committed == 1
        assert await bench.finish(job_id, 1, 1, State.EXPIRED, "deadline") is Verdict.OK


class TestEnd:
    @pytest.mark.parametrize("end", [State.DONE, State.FAILED, State.CANCELLED, State.EXPIRED])
    async def test_a_finish_writes_marker_outcome_and_outbox_once(self, bench: Bench, end: State) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.append(job_id, 1, 0, 2)
        for _ in range(3):
            assert await bench.finish(job_id, 1, 2, end, "because") is Verdict.OK
        job = await bench.queue.get("alice", job_id)
        assert (job.state, job.reason, job.committed, job.ended_ms) == (end, "because", 2, job.accepted_ms)
        log = await bench.queue.read_log("alice", job_id, START, 10)
        assert [(entry.position, entry.end) for entry in log] == [((1, 2), None), ((1, 3), end)]
        assert await bench.outbox() == [Outcome(job_id, "alice", end, "because")]
        assert (await bench.queue.load()).cost == 0

    async def test_the_first_finish_wins(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.finish(job_id, 1, 0, State.DONE)
        assert await bench.finish(job_id, 1, 0, State.FAILED) is Verdict.FENCED
        assert await state(bench, job_id) is State.DONE

    async def test_a_finish_at_another_count_is_a_gap(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.append(job_id, 1, 0, 2)
        assert await bench.finish(job_id, 1, 1) is Verdict.GAP
        assert await bench.finish(job_id, 1, 3) is Verdict.GAP
        assert await state(bench, job_id) is State.RUNNING

    @pytest.mark.parametrize("end", [State.QUEUED, State.RUNNING, State.DEAD])
    async def test_not_every_state_is_an_end_to_choose(self, bench: Bench, end: State) -> None:
        with pytest.raises(ValueError, match="cannot be finished"):
            await bench.queue.finish([Finish(job_id=UNKNOWN, epoch=1, committed=0, state=end, reason="")])

    async def test_many_in_one_call(self, bench: Bench) -> None:
        a, b = await bench.submit(), await bench.submit()
        await bench.claim()
        held = ((b, 1), (UNKNOWN, 1), (a, 2), (a, 1))
        finishes = [Finish(job_id=job_id, epoch=epoch, committed=0, state=State.DONE, reason="stop") for job_id, epoch in held]
        assert await bench.queue.finish(finishes) == [Verdict.OK, Verdict.FENCED, Verdict.FENCED, Verdict.OK]

    async def test_a_cancelled_job_may_still_be_done(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.queue.cancel("alice", job_id)
        assert await bench.finish(job_id, 1, 0, State.DONE) is Verdict.OK
        assert await state(bench, job_id) is State.DONE


class TestCancel:
    async def test_queued(self, bench: Bench) -> None:
        job_id = await bench.submit()
        for _ in range(2):
            assert await bench.queue.cancel("alice", job_id) is State.CANCELLED
        assert await bench.claim() == []
        log = await bench.queue.read_log("alice", job_id, START, 10)
        assert [(entry.position, entry.end, entry.reason) for entry in log] == [((0, 1), State.CANCELLED, "cancelled")]
        assert await bench.outbox() == [Outcome(job_id, "alice", State.CANCELLED, "cancelled")]

    async def test_delayed(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.release(job_id, 1, delay_ms=1_000)
        assert await bench.queue.cancel("alice", job_id) is State.CANCELLED
        await bench.advance(1_000)
        assert await bench.queue.promote(10) == 0

    async def test_running_is_the_owners_to_end(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        assert await bench.queue.cancel("alice", job_id) is State.RUNNING
        assert (await bench.queue.get("alice", job_id)).cancel_requested
        assert await bench.append(job_id, 1, 0) is Verdict.CANCEL
        assert await bench.renew(job_id, 1) is Verdict.CANCEL
        assert await bench.finish(job_id, 1, 1, State.CANCELLED, "cancelled") is Verdict.OK
        assert await bench.queue.cancel("alice", job_id) is State.CANCELLED

    async def test_ended_stays(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.finish(job_id, 1, 0)
        assert await bench.queue.cancel("alice", job_id) is State.DONE
        assert not (await bench.queue.get("alice", job_id)).cancel_requested

    @pytest.mark.parametrize("how", ["release", "reap_worker", "reap_expired"])
    async def test_whoever_takes_the_lease_away_completes_it(self, bench: Bench, how: str) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.append(job_id, 1, 0)
        await bench.queue.cancel("alice", job_id)
        await take_away(bench, job_id, 1, how)
        job = await bench.queue.get("alice", job_id)
        assert (job.state, job.reason, job.committed) == (State.CANCELLED, "cancelled", 1)
        log = await bench.queue.read_log("alice", job_id, START, 10)
        assert [entry.position for entry in log] == [(1, 1), (2, 2)]


class TestRelease:
    async def test_back_to_its_old_place(self, bench: Bench) -> None:
        first, second = await bench.submit(), await bench.submit()
        await bench.claim(max_jobs=1)
        await bench.append(first, 1, 0, 2)
        assert await bench.release(first, 1) is Verdict.OK
        job = await bench.queue.get("alice", first)
        assert (job.state, job.epoch, job.crashes) == (State.QUEUED, 2, 0)
        assert [(claim.request.id, claim.epoch, claim.committed) for claim in await bench.claim()] == [(first, 3, 2), (second, 1, 0)]

    async def test_a_repeat_is_ok_and_moves_nothing(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        assert await bench.release(job_id, 1) is Verdict.OK
        assert await bench.release(job_id, 1) is Verdict.OK
        await bench.claim()
        assert await bench.release(job_id, 1) is Verdict.OK
        job = await bench.queue.get("alice", job_id)
        assert (job.state, job.epoch) == (State.RUNNING, 3)

    async def test_to_wait(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.release(job_id, 1, delay_ms=1_000)
        assert await state(bench, job_id) is State.DELAYED
        assert (await bench.queue.load()).delayed == 1
        await bench.advance(999)
        assert await bench.queue.promote(10) == 0
        assert await bench.claim() == []
        await bench.advance(1)
        assert await bench.queue.promote(10) == 1
        assert [claim.epoch for claim in await bench.claim()] == [3]


async def take_away(bench: Bench, job_id: str, epoch: int, how: str) -> None:
    """The job loses its owner "w1"."""
    if how == "release":
        await bench.release(job_id, epoch)
    elif how == "reap_worker":
        await bench.queue.reap_worker("w1")
    else:
        await bench.advance(LEASE_MS)
        await bench.queue.reap_expired(100)


class TestFencing:
    @pytest.mark.parametrize("how", ["release", "reap_worker", "reap_expired"])
    @pytest.mark.parametrize("reclaimed", [False, True])
    async def test_every_write_of_an_older_epoch_is_refused(self, bench: Bench, how: str, reclaimed: bool) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.append(job_id, 1, 0)
        await take_away(bench, job_id, 1, how)
        if reclaimed:
            await bench.claim("w2")
        before = await bench.queue.get("alice", job_id)
        assert await bench.append(job_id, 1, 1) is Verdict.FENCED
        assert await bench.append(job_id, 1, 0) is Verdict.FENCED
        assert await bench.renew(job_id, 1) is Verdict.FENCED
        assert await bench.finish(job_id, 1, 1) is Verdict.FENCED
        assert await bench.release(job_id, 1) is (Verdict.OK if how == "release" else Verdict.FENCED)
        assert await bench.queue.get("alice", job_id) == before

    async def test_an_epoch_not_given_yet_is_refused(self, bench: Bench) -> None:
        job_id = await bench.submit()
        for epoch in (0, 1):
            assert await bench.append(job_id, epoch, 0) is Verdict.FENCED
            assert await bench.renew(job_id, epoch) is Verdict.FENCED
            assert await bench.finish(job_id, epoch, 0) is Verdict.FENCED
            assert await bench.release(job_id, epoch) is Verdict.FENCED

    async def test_an_ended_job_is_refused(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.finish(job_id, 1, 0)
        assert await bench.append(job_id, 1, 0) is Verdict.FENCED
        assert await bench.renew(job_id, 1) is Verdict.FENCED
        assert await bench.release(job_id, 1) is Verdict.FENCED

    async def test_unknown_jobs(self, bench: Bench) -> None:
        assert await bench.queue.renew([Held(UNKNOWN, 1)], LEASE_MS) == [Verdict.FENCED]
        assert await bench.queue.release([Held(UNKNOWN, 0)], 0) == [Verdict.FENCED]


class TestLeases:
    async def test_renewing_keeps_a_job(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        for _ in range(3):
            await bench.advance(LEASE_MS - 1)
            assert await bench.queue.reap_expired(10) == 0
            assert await bench.renew(job_id, 1) is Verdict.OK
        await bench.advance(LEASE_MS)
        assert await bench.queue.reap_expired(10) == 1
        assert await state(bench, job_id) is State.QUEUED

    async def test_a_lease_that_ran_out_holds_until_somebody_reaps_it(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.advance(2 * LEASE_MS)
        assert await bench.append(job_id, 1, 0) is Verdict.OK
        assert await bench.renew(job_id, 1) is Verdict.OK
        assert await bench.queue.reap_expired(10) == 0

    async def test_a_sweep_is_bounded(self, bench: Bench) -> None:
        for _ in range(5):
            await bench.submit()
        await bench.claim()
        await bench.advance(LEASE_MS)
        assert [await bench.queue.reap_expired(2) for _ in range(4)] == [2, 2, 1, 0]

    async def test_reaping_a_worker_takes_exactly_its_jobs(self, bench: Bench) -> None:
        mine = [await bench.submit() for _ in range(2)]
        await bench.claim("w1")
        theirs = await bench.submit()
        await bench.claim("w11")
        assert sorted(await bench.queue.reap_worker("w1")) == sorted(mine)
        assert await bench.queue.reap_worker("w1") == []
        assert [await state(bench, job_id) for job_id in (*mine, theirs)] == [State.QUEUED, State.QUEUED, State.RUNNING]

    async def test_a_job_lost_before_is_not_reaped_with_its_old_worker(self, bench: Bench) -> None:
        await bench.submit()
        await bench.claim("w1")
        await bench.advance(LEASE_MS)
        await bench.queue.reap_expired(10)
        await bench.claim("w2")
        assert await bench.queue.reap_worker("w1") == []

    async def test_reap_meets_a_passed_deadline(self, bench: Bench) -> None:
        a, b = await bench.submit(ttl_ms=1_000), await bench.submit(ttl_ms=LEASE_MS)
        await bench.claim("w1", max_jobs=1)
        await bench.claim("w2")
        await bench.advance(1_000)
        await bench.queue.reap_worker("w1")
        await bench.advance(LEASE_MS - 1_000)
        assert await bench.queue.reap_expired(10) == 1
        for job_id in (a, b):
            job = await bench.queue.get("alice", job_id)
            assert (job.state, job.reason) == (State.EXPIRED, "deadline")


class TestCrashes:
    """max_crashes is 3."""

    async def crash(self, bench: Bench, epoch: int, *, progress: bool = False) -> None:
        (claim,) = await bench.claim()
        assert claim.epoch == epoch
        if progress:
            await bench.append(claim.request.id, claim.epoch, claim.committed)
        await bench.queue.reap_worker("w1")

    async def test_suspects_wait_longer_and_longer_and_then_are_dead(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await self.crash(bench, 1)
        assert await state(bench, job_id) is State.QUEUED
        for crashes in (2, 3):
            await self.crash(bench, 2 * crashes - 1)
            job = await bench.queue.get("alice", job_id)
            assert (job.state, job.crashes) == (State.DELAYED, crashes)
            await bench.advance(crash_delay_ms(crashes, job_id) - 1)
            assert await bench.queue.promote(10) == 0
            await bench.advance(1)
            assert await bench.queue.promote(10) == 1
        await self.crash(bench, 7)
        job = await bench.queue.get("alice", job_id)
        assert (job.state, job.reason) == (State.DEAD, "its worker died 4 times in a row without progress")
        assert await bench.outbox() == [Outcome(job_id, "alice", State.DEAD, job.reason)]

    async def test_progress_forgives(self, bench: Bench) -> None:
        job_id = await bench.submit()
        for i in range(10):
            await self.crash(bench, 2 * i + 1, progress=True)
            assert (await bench.queue.get("alice", job_id)).crashes == 1
            assert await state(bench, job_id) is State.QUEUED

    async def test_a_lease_that_runs_out_is_weak_evidence(self, bench: Bench) -> None:
        job_id = await bench.submit()
        for i in range(25):
            assert await state(bench, job_id) is State.QUEUED, i
            assert (await bench.queue.get("alice", job_id)).crashes == 0
            await bench.claim()
            await bench.advance(LEASE_MS)
            await bench.queue.reap_expired(10)
        job = await bench.queue.get("alice", job_id)
        assert (job.state, job.reason) == (State.DEAD, "its lease ran out 25 times in a row without progress")

    async def test_a_release_counts_nothing(self, bench: Bench) -> None:
        job_id = await bench.submit()
        for i in range(10):
            await bench.claim()
            await bench.release(job_id, 2 * i + 1)
        job = await bench.queue.get("alice", job_id)
        assert (job.state, job.crashes) == (State.QUEUED, 0)
