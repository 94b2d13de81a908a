"""Choices, biases and log-probabilities by the official client from a real model, its engine killed on the way."""

from pathlib import Path
from typing import Any

from openai import OpenAI

from headrace.model_folder import DEMO_MODEL
from headrace.testing.tree import ENGINE, Tree
from headrace.tokenizer import Tokenizer

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."


def test_choices_of_a_seed_differ_and_repeat(client: OpenAI) -> None:
    def sampled() -> list[str | None]:
        made = client.chat.completions.create(model=DEMO_MODEL, messages=QUESTION, temperature=1.5, max_tokens=12, seed=7, n=3)
        assert made.usage is not None
        assert 3 < made.usage.completion_tokens <= 36
        return [choice.message.content for choice in made.choices]

    first = sampled()
    assert len(set(first)) == 3
    assert sampled() == first


def test_a_stream_of_choices_outlives_its_engine(client: OpenAI, tree: Tree) -> None:
    ask: Any = {"model": DEMO_MODEL, "prompt": "Once upon a time", "max_tokens": 60, "temperature": 0, "n": 2, "logprobs": 1}
    extra = {"ignore_eos": True}
    whole = client.completions.create(**ask, extra_body=extra)
    texts, told, killed = ["", ""], [0, 0], False
    for chunk in client.completions.create(**ask, extra_body=extra, stream=True):
        [choice] = chunk.choices
        texts[choice.index] += choice.text
        told[choice.index] += len(choice.logprobs.tokens or []) if choice.logprobs is not None else 0
        if not killed and min(told) > 8:
            tree.kill(*ENGINE)
            killed = True
    assert killed
    assert texts == [choice.text for choice in whole.choices]
    assert told == [60, 60]


def test_a_bias_makes_a_token_impossible(client: OpenAI, demo_model: Path) -> None:
    [paris] = Tokenizer(demo_model / "tokenizer.json").encode(" Paris")
    ask: Any = {"model": DEMO_MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 16}
    assert client.chat.completions.create(**ask).choices[0].message.content == ANSWER
    assert " Paris" not in str(client.chat.completions.create(**ask, logit_bias={str(paris): -100}).choices[0].message.content)


def test_logprobs_spell_the_answer(client: OpenAI) -> None:
    ask: Any = {"model": DEMO_MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 16}
    [choice] = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2).choices
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    assert b"".join(bytes(token.bytes or []) for token in content) == ANSWER.encode() + b"<|im_end|>"
    assert all(token.top_logprobs[0].token == token.token and token.logprob <= 0 for token in content)


def test_an_echo_scores_the_prompt(client: OpenAI) -> None:
    made = client.completions.create(model=DEMO_MODEL, prompt=ANSWER, echo=True, logprobs=2, max_tokens=1, temperature=0)
    [choice] = made.choices
    assert choice.text.startswith(ANSWER)
    assert choice.logprobs is not None
    tokens, scores, places = choice.logprobs.tokens or [], choice.logprobs.token_logprobs or [], choice.logprobs.text_offset or []
    assert "".join(tokens[:-1]) == ANSWER
    assert scores[0] is None
    assert all(score is not None and score <= 0 for score in scores[1:])
    assert [choice.text[place:].startswith(token) for place, token in zip(places, tokens, strict=True)] == [True] * len(tokens)
    france = tokens.index(" France")
    assert scores[france + 2] is not None
    assert scores[france + 2] > -3  # Paris, after "The capital of France is"


def test_the_answer_stops_where_it_is_told_and_not_before(client: OpenAI) -> None:
    ask: Any = {"model": DEMO_MODEL, "prompt": "One, two, three,", "temperature": 0, "max_tokens": 24}
    ended = client.completions.create(**ask, logit_bias={"2": 100}).choices[0]  # the token that ends an answer
    assert (ended.text, ended.finish_reason) == ("", "stop")
    kept = client.completions.create(**ask, logit_bias={"2": 100}, extra_body={"min_tokens": 5})
    assert kept.usage is not None
    assert kept.usage.completion_tokens == 6
