"""What `headrace/ports.py` promises to workers, for every adapter: claiming, appending, ending."""

import asyncio
from dataclasses import replace

import pytest

from headrace.cursor import START
from headrace.logprobs import Logprobs
from headrace.ports import Append, Finish, Verdict
from headrace.request import Lane
from headrace.state import State
from headrace.testing.bench import MODEL, Bench, Outcome

UNKNOWN = "00" + "f" * 29


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

    async def test_a_prompt_counts_once_for_each_choice(self, bench: Bench) -> None:
        job_id = await bench.submit(prompt_ids=range(10), n=3)
        assert await bench.claim(max_tokens=29) == []
        assert [claim.request.id for claim in await bench.claim(max_tokens=30)] == [job_id]

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

    async def test_choices_in_turn_each_with_its_logprobs(self, bench: Bench) -> None:
        job_id = await bench.submit(n=2, logprobs=2)
        await bench.claim()
        told = (Logprobs(-0.25, ((9, -0.25), (4, -1.5))), Logprobs(-3.0))
        appends = [
            Append(job_id=job_id, epoch=1, start=0, choice=0, token_ids=(9, 8), text="a", logprobs=told, prompt_logprobs=told[1:]),
            Append(job_id=job_id, epoch=1, start=2, choice=1, token_ids=(7,), text="b"),
            Append(job_id=job_id, epoch=1, start=3, choice=0, token_ids=(6,), text="", logprobs=told[:1]),
        ]
        for _ in range(2):  # the second time they are all there
            assert await bench.queue.append(appends) == [Verdict.OK] * 3
        log = await bench.queue.read_log("alice", job_id, START, 10)
        assert [(entry.position, entry.choice, entry.token_ids, entry.text) for entry in log] == [
            ((1, 2), 0, (9, 8), "a"),
            ((1, 3), 1, (7,), "b"),
            ((1, 4), 0, (6,), ""),
        ]
        assert [entry.logprobs for entry in log] == [told, (), told[:1]]
        assert [entry.prompt_logprobs for entry in log] == [told[1:], (), ()]

    async def test_a_repeat_with_other_logprobs_is_a_gap(self, bench: Bench) -> None:
        job_id = await bench.submit(logprobs=0)
        await bench.claim()
        first = Append(job_id=job_id, epoch=1, start=0, token_ids=(1,), text="", logprobs=(Logprobs(-1.0),))
        assert await bench.queue.append([first]) == [Verdict.OK]
        assert await bench.queue.append([replace(first, logprobs=(Logprobs(-2.0),))]) == [Verdict.GAP]

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

    async def test_the_end_marker_has_the_cached_tokens_that_were_told_first(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.append(job_id, 1, 0)
        told = Append(job_id=job_id, epoch=1, start=1, token_ids=(1,), text="", cached_tokens=0)
        for append in (told, told, replace(told, start=9, cached_tokens=1), replace(told, start=2, cached_tokens=2)):
            await bench.queue.append([append])
        await bench.release(job_id, 1)
        [claim] = await bench.claim()
        later = Append(job_id=job_id, epoch=claim.epoch, start=3, token_ids=(1,), text="", cached_tokens=3)
        assert await bench.queue.append([replace(told, start=3, cached_tokens=4), later]) == [Verdict.FENCED, Verdict.OK]
        await bench.finish(job_id, claim.epoch, 4)
        log = await bench.queue.read_log("alice", job_id, START, 10)
        assert [entry.cached_tokens for entry in log] == [None, None, None, None, 0]

    async def test_whoever_ends_it_the_cached_tokens_are_in_the_marker(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.queue.append([Append(job_id=job_id, epoch=1, start=0, token_ids=(1,), text="", cached_tokens=64)])
        await bench.release(job_id, 1)
        await bench.queue.cancel("alice", job_id)
        [*_, end] = await bench.queue.read_log("alice", job_id, START, 10)
        assert (end.end, end.cached_tokens) == (State.CANCELLED, 64)

    async def test_cached_tokens_that_nobody_told_are_unknown(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.append(job_id, 1, 0)
        await bench.finish(job_id, 1, 1)
        [*_, end] = await bench.queue.read_log("alice", job_id, START, 10)
        assert (end.end, end.cached_tokens) == (State.DONE, None)

    async def test_the_first_finish_wins(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.finish(job_id, 1, 0, State.DONE)
        assert await bench.finish(job_id, 1, 0, State.FAILED) is Verdict.FENCED
        assert await bench.state(job_id) is State.DONE

    async def test_a_finish_at_another_count_is_a_gap(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.append(job_id, 1, 0, 2)
        assert await bench.finish(job_id, 1, 1) is Verdict.GAP
        assert await bench.finish(job_id, 1, 3) is Verdict.GAP
        assert await bench.state(job_id) is State.RUNNING

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
        assert await bench.state(job_id) is State.DONE
