"""The engine against transformers on a real model: the same greedy tokens, however requests are batched, cut, preempted or resumed.

fp32 products differ in their last bits between the programs, and in transformers with the shape of the batch. So tokens must be equal, or
differ first where the reference itself wavers: its two best logits, computed for exactly that prefix, lie within 1e-3.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from headrace.chat_template import ChatTemplate
from headrace.model_folder import ModelFolder
from headrace.request import Sampling
from headrace.testing.scale import FULL_SIZE
from headrace.tokenizer import Tokenizer
from workers.engine.config import EngineConfig
from workers.engine.engine import PagedEngine
from workers.ports import Delta, EngineRequest, FinishReason

NEW_TOKENS = 24
PROMPTS = 64 if FULL_SIZE else 24
"""Of those below."""
TIE = 1e-3
SUBJECTS = ("tea", "glaciers", "jazz", "π and √2", "bread 🥖", "chess", "the moon", "sorting")
FORMS = (
    "Say one thing about {}.",
    "What is {}?",
    "List three facts about {}.",
    "Write a haiku about {}.",
    "Translate '{}' to French, German, Spanish, Italian and Dutch, and say which of them you are sure about.",
    "Explain {} to a child of six years, with an example from the kitchen, one from the garden and one from the street.",
    "Why do people like {}? Answer in one sentence.",
    "{}, {}, {}: what comes next in this list, and why would anybody write such a list in the first place? Think step by step.",
)


class Reference:
    """transformers' greedy continuation of all prompts."""

    def __init__(self, folder: Path) -> None:
        model = ModelFolder.read(folder)
        self.tokenizer = Tokenizer(model.tokenizer_file)
        template = ChatTemplate(model, self.tokenizer)
        texts = [form.format(subject, subject, subject) for subject in SUBJECTS for form in FORMS][:PROMPTS]
        self.prompts = [template.encode([{"role": "user", "content": text}]) for text in texts]
        self._eos = next(iter(model.eos_ids))
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.answers = self._generate()

    def _generate(self) -> list[list[int]]:
        longest = max(map(len, self.prompts))
        ids = torch.tensor([[self._eos] * (longest - len(prompt)) + prompt for prompt in self.prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in self.prompts])
        with torch.inference_mode():
            out = self._model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=self._eos)
        return [self._until_eos(row) for row in out[:, longest:].tolist()]

    def _until_eos(self, ids: list[int]) -> list[int]:
        return ids[: ids.index(self._eos) + 1] if self._eos in ids else ids

    def check(self, prompt: int, ids: Sequence[int]) -> None:
        """Raises AssertionError unless `ids` answers the prompt as the reference does, up to a tie."""
        answer = self.answers[prompt]
        if list(ids) == answer:
            return
        place = next(i for i, pair in enumerate(zip(ids, answer, strict=False)) if pair[0] != pair[1])
        with torch.inference_mode():
            logits = self._model(torch.tensor([self.prompts[prompt] + answer[:place]])).logits[0, -1]
        best = logits.topk(2).values
        assert best[0] - best[1] <= TIE, f"prompt {prompt} differs at {place}: {list(ids)} for {answer}, no tie: {best.tolist()}"
        assert logits[ids[place]] >= best[1], f"prompt {prompt} differs at {place}: {ids[place]} is neither of the two best"


@dataclass
class Answer:
    ids: list[int]
    text: str = ""
    finish: FinishReason | None = None

    def take(self, delta: Delta) -> None:
        assert not delta.error, delta.error
        assert self.finish is None, "a delta after the end"
        self.ids += delta.token_ids
        self.text += delta.text
        self.finish = delta.finish


def greedy(max_tokens: int = NEW_TOKENS, **fields: Any) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=0.0, seed=0, **fields)


def ask(
    reference: Reference, prompt: int, committed: Sequence[int] = (), sampling: Sampling | None = None, priority: int = 0
) -> EngineRequest:
    return EngineRequest(
        request_id=str(prompt),
        prompt_ids=tuple(reference.prompts[prompt]),
        sampling=sampling or greedy(),
        committed_ids=tuple(committed),
        priority=priority,
    )


def run(engine: PagedEngine, answers: dict[int, Answer]) -> None:
    """Step until all are finished."""
    while any(answer.finish is None for answer in answers.values()):
        for delta in engine.step(0):
            answers[int(delta.request_id)].take(delta)


def idle(engine: PagedEngine) -> bool:
    stats = engine.stats()
    return (stats.running, stats.waiting, stats.kv_tokens_used) == (0, 0, 0)


@pytest.fixture(scope="module")
def reference(demo_model: Path) -> Reference:
    return Reference(demo_model)


@pytest.fixture(scope="module")
def engine(demo_model: Path) -> PagedEngine:
    engine = PagedEngine(EngineConfig(model=demo_model, kv_memory_mb=256))
    engine.open()
    return engine


@pytest.fixture(scope="module")
def unbroken(engine: PagedEngine, reference: Reference) -> dict[int, Answer]:
    """All at once: what the other runs' texts are compared with."""
    answers = {i: Answer([]) for i in range(len(reference.prompts))}
    for i in answers:
        engine.add(ask(reference, i))
    run(engine, answers)
    assert idle(engine)
    return answers


def test_all_at_once(unbroken: dict[int, Answer], reference: Reference) -> None:
    for i, answer in unbroken.items():
        reference.check(i, answer.ids)
        assert answer.text == reference.tokenizer.decode(answer.ids)


def test_prompts_in_small_chunks(demo_model: Path, reference: Reference) -> None:
    engine = PagedEngine(EngineConfig(model=demo_model, kv_memory_mb=64, max_running=8, token_budget=13, block_size=8))
    engine.open()
    answers = {i: Answer([]) for i in range(PROMPTS)}
    for i in answers:
        engine.add(ask(reference, i))
    run(engine, answers)
    for i, answer in answers.items():
        reference.check(i, answer.ids)
    assert idle(engine)


def test_a_pool_so_small_that_sequences_are_preempted(demo_model: Path, reference: Reference) -> None:
    engine = PagedEngine(EngineConfig(model=demo_model, kv_memory_mb=12, block_size=4))
    engine.open()
    answers = {i: Answer([]) for i in range(PROMPTS)}
    for i in answers:
        engine.add(ask(reference, i, priority=i % 3))
    run(engine, answers)
    for i, answer in answers.items():
        reference.check(i, answer.ids)
    assert engine.stats().preemptions > 3
    assert idle(engine)


def test_requests_that_come_and_go_and_resume_at_any_token(engine: PagedEngine, reference: Reference, unbroken: dict[int, Answer]) -> None:
    """Each is aborted after a random number of tokens and comes back later, among others, with what it had committed."""
    rng = random.Random(5)
    answers = {i: Answer([]) for i in range(PROMPTS)}
    outside = list(answers)
    rng.shuffle(outside)
    running: dict[int, int] = {}  # prompt → when it is to be aborted, in tokens
    aborted = 0
    while any(answer.finish is None for answer in answers.values()):
        while outside and len(running) < 12:
            i = outside.pop()
            engine.add(ask(reference, i, committed=answers[i].ids))
            running[i] = len(answers[i].ids) + rng.randint(1, 20)
        for delta in engine.step(0):
            i = int(delta.request_id)
            answers[i].take(delta)
            if delta.finish:
                del running[i]
        for i, limit in list(running.items()):
            if len(answers[i].ids) >= limit:
                engine.abort(str(i))
                del running[i]
                outside.insert(0, i)
                aborted += 1
    assert aborted > len(answers)
    for i, answer in answers.items():
        reference.check(i, answer.ids)
        if answer.ids == unbroken[i].ids:
            assert (answer.text, answer.finish) == (unbroken[i].text, unbroken[i].finish)
    assert idle(engine)


def test_seeded_sampling_is_the_same_alone_in_a_batch_and_resumed(engine: PagedEngine, reference: Reference) -> None:
    """Holds while logits differ by rounding only: the uniform number of a draw is a function of seed and position, not of the batch."""
    hot = Sampling(max_tokens=16, temperature=0.8, top_p=0.9, top_k=40, seed=11, ignore_eos=True)
    alone = {3: Answer([])}
    engine.add(ask(reference, 3, sampling=hot))
    run(engine, alone)
    assert alone[3].ids != reference.answers[3][:16]

    together = {i: Answer([]) for i in range(8)}
    for i in together:
        engine.add(ask(reference, i, sampling=hot if i == 3 else greedy()))
    run(engine, together)
    assert together[3].ids == alone[3].ids
    for i in set(together) - {3}:
        reference.check(i, together[i].ids)

    for cut in (1, 5, 11):
        resumed = {3: Answer([])}
        engine.add(ask(reference, 3, sampling=hot, committed=alone[3].ids[:cut]))
        run(engine, resumed)
        assert resumed[3].ids == alone[3].ids[cut:]
