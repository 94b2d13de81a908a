"""What the official client makes of several choices and of log-probabilities."""

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from headrace.testing.bench import Queue
from headrace.testing.scripted_worker import PANGRAM

MODEL = "test-model"
TEXT = "".join(PANGRAM)
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


async def test_two_choices(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=HI, n=2)
    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in answer.choices] == [
        (0, TEXT, "stop"),
        (1, TEXT, "stop"),
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 22)


async def test_two_choices_in_a_stream(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=HI, n=2, stream=True, stream_options={"include_usage": True})
    *chunks, last = [chunk async for chunk in stream]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert [(choice.index, choice.delta.role) for choice in choices[:2]] == [(0, "assistant"), (1, "assistant")]
    for index in range(2):
        own = [choice for choice in choices if choice.index == index]
        assert "".join(choice.delta.content or "" for choice in own) == TEXT
        assert [choice.finish_reason for choice in own if choice.finish_reason] == ["stop"]
    assert last.usage is not None
    assert last.usage.completion_tokens == 22


async def test_the_stream_helper_keeps_choices_and_logprobs_apart(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model=MODEL, messages=HI, n=3, logprobs=True, top_logprobs=2) as stream:
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == [TEXT] * 3
    assert [choice.finish_reason for choice in final.choices] == ["stop"] * 3
    for choice in final.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert len(choice.logprobs.content) == 11


@pytest.mark.parametrize("top", [None, 0, 3])
async def test_logprobs_of_a_chat(client: AsyncOpenAI, top: int | None) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=HI, logprobs=True, top_logprobs=top, max_tokens=5)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(token.token, token.logprob) for token in logprobs.content] == [(f" w{i}", -0.5) for i in range(5)]
    assert bytes(logprobs.content[4].bytes or []) == b" w4"
    assert [[(other.token, other.logprob) for other in token.top_logprobs] for token in logprobs.content] == [
        [(f" w{i + k}", -0.5 - k) for k in range(top or 0)] for i in range(5)
    ]


async def test_logprobs_of_a_chat_stream(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=HI, logprobs=True, max_tokens=5, stream=True)
    told = [choice.logprobs.content or [] async for chunk in stream for choice in chunk.choices if choice.logprobs is not None]
    assert [token.token for part in told for token in part] == [f" w{i}" for i in range(5)]


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_of_a_completion(client: AsyncOpenAI, stream: bool) -> None:
    made = await client.completions.create(model=MODEL, prompt="a b", logprobs=2, max_tokens=3, stream=stream)
    parts = [made] if isinstance(made, openai.types.Completion) else [part async for part in made]
    told = [part.choices[0].logprobs for part in parts if part.choices[0].logprobs is not None]
    assert [token for one in told for token in one.tokens or []] == [" w0", " w1", " w2"]
    assert [value for one in told for value in one.token_logprobs or []] == [-0.5] * 3
    assert [names for one in told for names in one.top_logprobs or []] == [{f" w{i}": -0.5, f" w{i + 1}": -1.5} for i in range(3)]
    assert [place for one in told for place in one.text_offset or []] == [0, len("The"), len("The quick")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
async def test_an_echo_with_the_prompts_logprobs(client: AsyncOpenAI, stream: bool, n: int) -> None:
    made = await client.completions.create(model=MODEL, prompt=[7, 8, 9], echo=True, logprobs=1, max_tokens=1, n=n, stream=stream)
    parts = [made] if isinstance(made, openai.types.Completion) else [part async for part in made]
    for index in range(n):
        own = [choice for part in parts for choice in part.choices if choice.index == index]
        assert "".join(choice.text for choice in own) == " w7 w8 w9The"
        told = [choice.logprobs for choice in own if choice.logprobs is not None]
        assert [token for one in told for token in one.tokens or []] == [" w7", " w8", " w9", f" w{index}"]
        assert [value for one in told for value in one.token_logprobs or []] == [None, -0.5, -0.5, -0.5]
        assert [place for one in told for place in one.text_offset or []] == [0, 3, 6, 9]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_echo_of_the_text_alone(client: AsyncOpenAI, stream: bool) -> None:
    made = await client.completions.create(model=MODEL, prompt=[7, 8], echo=True, max_tokens=2, n=2, best_of=2, stream=stream)
    parts = [made] if isinstance(made, openai.types.Completion) else [part async for part in made]
    for index in range(2):
        own = [choice for part in parts for choice in part.choices if choice.index == index]
        assert "".join(choice.text for choice in own) == " w7 w8The quick"
        assert all(choice.logprobs is None for choice in own)


async def test_biases_and_penalties_reach_the_queue(client: AsyncOpenAI, queue: Queue) -> None:
    extra = {"min_p": 0.1, "repetition_penalty": 1.2, "stop_token_ids": [5], "min_tokens": 2, "top_k": 4}
    answer = await client.chat.completions.create(
        model=MODEL, messages=HI, logit_bias={"50": -100, "7": 3}, presence_penalty=0.5, frequency_penalty=-0.5, extra_body=extra
    )
    sampling = (await queue.get("default", answer.id.removeprefix("chatcmpl-"))).request.sampling
    assert sampling.logit_bias == ((7, 3.0), (50, -100.0))
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.5, -0.5, 1.2)
    assert (sampling.min_p, sampling.stop_token_ids, sampling.min_tokens) == (0.1, (5,), 2)


async def test_refusals_name_the_field(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as alone:
        await client.chat.completions.create(model=MODEL, messages=HI, top_logprobs=2)
    assert alone.value.param == "top_logprobs"
    with pytest.raises(openai.BadRequestError) as outside:
        await client.chat.completions.create(model=MODEL, messages=HI, logit_bias={"1000": 1})
    assert (outside.value.param, "from 0 to 999, got 1000" in outside.value.message) == ("logit_bias", True)
