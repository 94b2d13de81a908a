"""The Engine port: what the worker loop relies on, of every engine. `Subject.steps` checks that a step has one delta per request."""

from dataclasses import replace
from itertools import pairwise
from time import monotonic

import pytest

from headrace.logprobs import Logprobs
from headrace.request import Sampling
from tests.engine_bench import CONTEXT, FIELDS, MAX_RUNNING, PROMPT, Answer, Subject, ask, collect, greedy, with_field
from workers.ports import Capacity, EngineRequest, FinishReason

LEAST, MOST = 2, 0
"""Priorities."""
LONG = 100
"""Tokens of a request that is to be found running."""


def long(request_id: str, prompt: tuple[int, ...] = PROMPT, *, priority: int = LEAST) -> EngineRequest:
    return ask(request_id, prompt, greedy(LONG, ignore_eos=True), priority=priority)


def test_an_answer_has_max_tokens_and_says_so(subject: Subject) -> None:
    answer = subject.answer(ask(sampling=greedy(7, ignore_eos=True)))
    assert len(answer.ids) == 7
    assert answer.finish is FinishReason.LENGTH
    assert answer.text


def test_one_token_is_an_answer(subject: Subject) -> None:
    answer = subject.answer(ask(sampling=greedy(1, ignore_eos=True)))
    assert (len(answer.ids), answer.finish) == (1, FinishReason.LENGTH)


def test_an_end_of_text_token_ends_an_answer_and_has_no_text(subject: Subject) -> None:
    answer = subject.answer(ask(prompt=subject.ending, sampling=greedy(60)))
    assert answer.finish is FinishReason.STOP
    assert answer.ids.index(subject.eos) == len(answer.ids) - 1
    before = subject.answer(ask(prompt=subject.ending, sampling=greedy(len(answer.ids) - 1)))
    assert before.ids == answer.ids[:-1]
    assert before.text == answer.text
    assert before.finish is FinishReason.LENGTH


def test_an_end_of_text_token_that_is_to_be_ignored(subject: Subject) -> None:
    answer = subject.answer(ask(prompt=subject.ending, sampling=greedy(60, ignore_eos=True)))
    assert subject.eos in answer.ids[:-1]
    assert (len(answer.ids), answer.finish) == (60, FinishReason.LENGTH)


def test_a_stop_string_ends_an_answer_before_itself(subject: Subject) -> None:
    whole = subject.answer(ask(sampling=greedy(40, ignore_eos=True)))
    stop = whole.text[7:10]
    answer = subject.answer(ask(sampling=greedy(40, ignore_eos=True, stop=[stop, "\x00"])))
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert answer.finish is FinishReason.STOP
    assert answer.ids == whole.ids[: len(answer.ids)]
    assert len(answer.ids) < 40


def test_an_answer_goes_on_behind_its_committed_tokens(subject: Subject) -> None:
    whole = subject.answer(ask(sampling=greedy(20, ignore_eos=True)))
    for done in (1, 9, 19):
        rest = subject.answer(ask(sampling=greedy(20, ignore_eos=True), committed_ids=tuple(whole.ids[:done])))
        assert rest.ids == whole.ids[done:]
        assert whole.text.endswith(rest.text)
        assert rest.finish is FinishReason.LENGTH


def test_the_pieces_of_a_resumed_answer_are_the_text_of_the_whole(subject: Subject) -> None:
    """Also of one that a stop string ends which began in the earlier run."""
    whole = subject.answer(ask(sampling=greedy(40, ignore_eos=True)))
    sampling = greedy(40, ignore_eos=True, stop=[whole.text[6:12]])
    unbroken = Answer()
    subject.engine.add(ask(sampling=sampling))
    texts: list[tuple[int, str]] = []
    for deltas in subject.steps():
        collect({"a": unbroken}, deltas)
        texts.append((len(unbroken.ids), unbroken.text))
    for done, text in texts:
        if 0 < done < len(unbroken.ids):
            rest = subject.answer(ask(sampling=sampling, committed_ids=tuple(unbroken.ids[:done])))
            assert text + rest.text == unbroken.text
            assert rest.finish is FinishReason.STOP


def test_an_answer_that_had_ended_is_reported_once_more(subject: Subject) -> None:
    """Its last owner died between its last token and the report."""
    ended = subject.answer(ask(prompt=subject.ending, sampling=greedy(60)))
    cut = subject.answer(ask(sampling=greedy(5, ignore_eos=True)))
    for request in (
        ask("eos", subject.ending, greedy(60), committed_ids=tuple(ended.ids)),
        ask("length", PROMPT, greedy(5, ignore_eos=True), committed_ids=tuple(cut.ids)),
    ):
        answer = subject.answer(request)
        assert (answer.ids, answer.text) == ([], "")
        assert answer.finish is (FinishReason.STOP if request.request_id == "eos" else FinishReason.LENGTH)


def test_nothing_is_heard_of_a_request_that_was_aborted(subject: Subject) -> None:
    room = subject.engine.capacity(LEAST)
    subject.engine.add(long("gone"))
    subject.engine.add(long("kept"))
    subject.step_until(lambda deltas: {delta.request_id for delta in deltas} == {"gone", "kept"})
    subject.engine.abort("gone")
    after = [delta for deltas in subject.steps() for delta in deltas]
    assert {delta.request_id for delta in after} == {"kept"}
    assert after[-1].finish is FinishReason.LENGTH
    assert subject.engine.capacity(LEAST) == room


def test_a_request_is_aborted_before_its_first_step(subject: Subject) -> None:
    subject.engine.add(ask("gone"))
    subject.engine.add(ask("refused", (1,) * CONTEXT * 8))
    subject.engine.abort("gone")
    subject.engine.abort("refused")
    subject.engine.abort("unknown")
    assert [delta for deltas in subject.steps() for delta in deltas] == []


def test_an_aborted_id_may_come_back(subject: Subject) -> None:
    """Under the same id, although what it was may still be on its way."""
    alone = subject.answer(ask("again"))
    subject.engine.add(ask("again"))
    subject.engine.step(0.02)
    subject.engine.abort("again")
    assert subject.answer(ask("again")) == alone


def test_a_prompt_that_is_too_long_fails_alone(subject: Subject) -> None:
    long_prompt = (1,) * (CONTEXT * 8)
    answers = subject.run(ask("long", long_prompt), ask("ok"))
    assert answers["long"].finish is FinishReason.ERROR
    assert answers["long"].end is not None
    assert answers["long"].end.fault is None, "nothing but the request is to blame"
    assert str(len(long_prompt)) in answers["long"].end.error
    assert answers["ok"].finish is FinishReason.LENGTH


def test_a_token_id_that_there_is_not_fails_alone(subject: Subject) -> None:
    if subject.own_script:
        pytest.skip("it has no vocabulary")
    answers = subject.run(ask("bad", (1, 64)), ask("ok"))
    assert answers["bad"].end is not None
    assert "64" in answers["bad"].end.error
    assert answers["ok"].finish is FinishReason.LENGTH


def test_room_is_taken_and_comes_back(subject: Subject) -> None:
    engine = subject.engine
    idle = engine.capacity(LEAST)
    assert idle.requests == MAX_RUNNING
    assert idle.tokens >= CONTEXT
    for i in range(MAX_RUNNING + 2):
        engine.add(long(str(i)))
    seen: list[Capacity] = []
    for _ in subject.steps():
        seen += [engine.capacity(LEAST), engine.capacity(MOST)]
    assert all(room.requests >= 0 and room.tokens >= 0 for room in seen)
    assert min(room.requests for room in seen) == 0
    assert min(room.tokens for room in seen) < idle.tokens
    assert engine.capacity(LEAST) == idle


def test_many_at_once_answer_as_each_does_alone(subject: Subject) -> None:
    prompts = [(first, 2, 3) for first in range(5, 45)]
    together = subject.run(*(ask(str(i), prompt) for i, prompt in enumerate(prompts)))
    for i in (0, 13, 39):
        assert subject.answer(ask(str(i), prompts[i])) == together[str(i)]
    assert all(answer.finish is FinishReason.LENGTH for answer in together.values())


def test_a_seed_decides_what_is_drawn(subject: Subject) -> None:
    def draw(seed: int) -> list[int]:
        return subject.answer(ask(sampling=Sampling(max_tokens=24, temperature=1.5, seed=seed, ignore_eos=True))).ids

    assert draw(7) == draw(7)
    if not subject.own_script:
        assert len({tuple(draw(seed)) for seed in range(4)}) > 1


def test_a_resumed_draw_is_the_unbroken_one(subject: Subject) -> None:
    sampling = Sampling(max_tokens=24, temperature=1.5, top_p=0.95, seed=11, ignore_eos=True)
    whole = subject.answer(ask(sampling=sampling)).ids
    resumed = [subject.answer(ask(sampling=sampling, committed_ids=tuple(whole[:10]))).ids for _ in range(2)]
    assert resumed[0] == resumed[1]
    if subject.can.exact_resume:
        assert resumed[0] == whole[10:]


def test_what_of_a_prompt_was_computed_before_is_told_with_the_first_token(subject: Subject) -> None:
    prompt = tuple(i * 11 % 60 for i in range(200))  # longer than anybody's block
    first, again, other = (subject.answer(ask(prompt=prompt, tenant=tenant)) for tenant in ("curious", "curious", "another"))
    resumed = subject.answer(ask(prompt=prompt, tenant="curious", committed_ids=tuple(first.ids[:3])))
    if not subject.can.cached_tokens:
        assert [answer.cached for answer in (first, again, other, resumed)] == [[]] * 4
        return
    assert (first.cached, other.cached, resumed.cached) == ([0], [0], [])
    [found] = again.cached
    assert 0 < found < len(prompt)


def test_stats_tell_how_it_stands(subject: Subject) -> None:
    before = subject.engine.stats()
    assert before.device
    assert (before.kv_tokens_used, before.running, before.waiting) == (0, 0, 0)
    for i in range(MAX_RUNNING):
        subject.engine.add(long(str(i)))
    subject.step_until(lambda deltas: len({delta.request_id for delta in deltas}) == MAX_RUNNING)
    during = subject.engine.stats()
    assert during.running == MAX_RUNNING
    assert 0 < during.kv_tokens_used <= during.kv_tokens_total
    assert 0 <= during.memory_used <= during.memory_total
    steps = [during.steps]
    for _ in subject.steps():
        steps.append(subject.engine.stats().steps)
    assert steps[0] > before.steps
    assert all(earlier <= later for earlier, later in pairwise(steps))
    assert subject.engine.stats().kv_tokens_used == 0


def test_without_work_a_step_waits_no_longer_than_it_may(subject: Subject) -> None:
    began = monotonic()
    assert subject.engine.step(0.05) == []
    assert monotonic() - began < 5


def test_an_urgent_request_displaces_a_lesser_one_which_keeps_its_tokens(subject: Subject) -> None:
    if not subject.can.priority:
        pytest.skip("its requests are equals")
    lesser = [long(str(i), (i, 2, 3), priority=LEAST) for i in range(MAX_RUNNING)]
    alone = {request.request_id: subject.answer(request) for request in lesser}
    answers = {str(i): Answer() for i in range(MAX_RUNNING)} | {"urgent": Answer()}
    for request in lesser:
        subject.engine.add(request)
    collect(answers, subject.step_until(lambda deltas: len({delta.request_id for delta in deltas}) == MAX_RUNNING))
    assert subject.engine.capacity(LEAST).requests == 0
    assert subject.engine.capacity(MOST).requests == MAX_RUNNING
    displaced = subject.engine.stats().preemptions
    subject.engine.add(ask("urgent", PROMPT, greedy(3, ignore_eos=True), priority=MOST))
    collect(answers, subject.step_until(lambda deltas: any(delta.request_id == "urgent" and delta.finish for delta in deltas)))
    assert any(answer.end is None for answer in answers.values()), "it waited until the others had ended"
    for deltas in subject.steps():
        collect(answers, deltas)
    assert subject.engine.stats().preemptions == displaced + 1
    for request_id, answer in alone.items():
        assert (answers[request_id].ids, answers[request_id].text) == (answer.ids, answer.text)


@pytest.mark.parametrize("name", ["plain", *FIELDS])
def test_greedy_tokens_are_those_of_our_own_engine_or_the_field_is_refused(subject: Subject, name: str) -> None:
    if subject.own_script:
        pytest.skip("its tokens are its own")
    answer, own = subject.answer(with_field(name, subject.reference)), subject.reference.answers[name]
    if name in subject.can.lacks:
        assert answer.end is not None
        assert (answer.ids, answer.finish, answer.end.fault) == ([], FinishReason.ERROR, None)
        assert any(answer.end.error.startswith(f"'{field}' is not supported by the engine") for field in subject.can.lacks)
        return
    assert (answer.ids, answer.text, answer.finish) == (own.ids, own.text, own.finish)
    check_logprobs(answer.logprobs, own.logprobs)
    check_logprobs(answer.prompt_logprobs, own.prompt_logprobs)


def check_logprobs(told: list[Logprobs], own: list[Logprobs]) -> None:
    assert [[token for token, _ in one.top] for one in told] == [[token for token, _ in one.top] for one in own]
    for one, other in zip(told, own, strict=True):
        assert [one.chosen, *(value for _, value in one.top)] == pytest.approx([other.chosen, *(value for _, value in other.top)], abs=1e-3)


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - {"logprobs", "prompt_logprobs", "min_p"}))
def test_what_a_field_does_it_does_on_in_a_resumed_answer(subject: Subject, name: str) -> None:
    if subject.own_script or name in subject.can.lacks:
        pytest.skip("it does nothing of the kind")
    own = subject.reference.answers[name]
    rest = subject.answer(replace(with_field(name, subject.reference), committed_ids=tuple(own.ids[:7])))
    assert rest.ids == own.ids[7:]


def test_fields_make_a_difference(subject: Subject) -> None:
    """Or the two tests above would show nothing."""
    answers = subject.reference.answers
    if subject.own_script:
        pytest.skip("its tokens are its own")
    for name in ("logit_bias", "presence_penalty", "frequency_penalty", "repetition_penalty", "stop_token_ids"):
        assert answers[name].ids != answers["plain"].ids
    assert len(answers["min_tokens"].ids) == 60
    assert len(answers["logprobs"].logprobs) == 30
