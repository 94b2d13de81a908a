"""The official client, unchanged, against a real model."""

from typing import Any

import openai
import pytest
from openai import OpenAI

from headrace.model_folder import DEMO_MODEL
from headrace.testing.tree import ENGINE, Tree

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [DEMO_MODEL]
    assert client.models.retrieve(DEMO_MODEL).id == DEMO_MODEL


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=DEMO_MODEL, messages=QUESTION, temperature=0, max_tokens=32)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_stream(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=DEMO_MODEL, messages=QUESTION, temperature=0, max_tokens=32, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model=DEMO_MODEL, messages=QUESTION, temperature=0, max_tokens=32) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == ANSWER


@pytest.mark.parametrize("stream", [False, True])
def test_completions(client: OpenAI, stream: bool) -> None:
    made: Any = client.completions.create(model=DEMO_MODEL, prompt="One, two, three,", temperature=0, max_tokens=6, stream=stream)
    parts = list(made) if stream else [made]
    assert "four" in "".join(part.choices[0].text for part in parts)
    assert parts[-1].choices[0].finish_reason == "length"


def test_stop_strings_are_not_shown(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=DEMO_MODEL, messages=QUESTION, temperature=0, max_tokens=32, stop=[" is Par", "never"])
    assert answer.choices[0].message.content == "The capital of France"
    assert answer.choices[0].finish_reason == "stop"


def test_a_seed_repeats_a_sampled_answer(client: OpenAI) -> None:
    def sampled(seed: int) -> str | None:
        made = client.chat.completions.create(model=DEMO_MODEL, messages=QUESTION, temperature=1.5, max_tokens=24, seed=seed)
        return made.choices[0].message.content

    assert sampled(7) == sampled(7)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_errors(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=DEMO_MODEL, messages=[{"role": "user", "content": "word " * 9_000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as hot:
        client.chat.completions.create(model=DEMO_MODEL, messages=QUESTION, temperature=3)
    assert hot.value.param == "temperature"


def test_an_idle_stream_survives_its_pings(client: OpenAI, tree: Tree) -> None:
    """The engine dies in mid-stream: for seconds the client gets nothing but pings, then the rest."""
    ask: Any = {"model": DEMO_MODEL, "prompt": "Once upon a time", "max_tokens": 60, "temperature": 0, "extra_body": {"ignore_eos": True}}
    whole = client.completions.create(**ask).choices[0].text
    pieces = []
    for chunk in client.completions.create(**ask, stream=True):
        pieces.append(chunk.choices[0].text)
        if len(pieces) == 10:
            tree.kill(*ENGINE)
    assert "".join(pieces) == whole
