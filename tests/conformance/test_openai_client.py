"""The official client, as its users use it, against a real server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from headrace.state import State
from headrace.testing.bench import Queue
from headrace.testing.eventually import eventually
from headrace.testing.scripted_worker import PANGRAM, Pace, Script, ScriptedWorker
from producer_api.server import Server

MODEL = "test-model"
TEXT = "".join(PANGRAM)
HI: list[ChatCompletionMessageParam] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


async def counted_requests(client: AsyncOpenAI) -> int:
    """Requests that reached the API's POST routes, retries included."""
    text = await client.get("/../metrics", cast_to=str)
    lines = [line for line in text.splitlines() if line.startswith("headrace_http_requests_total") and 'method="POST"' in line]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


async def test_chat(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=HI, temperature=0, seed=3, stop=["\n"], user="u", extra_body={"top_k": 5, "ignore_eos": False}
    )
    choice = answer.choices[0]
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.system_fingerprint is not None
    assert answer.system_fingerprint.startswith("headrace-")
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", TEXT, "stop")
    assert choice.message.tool_calls is None
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (10, 11, 21)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens is None, "no worker told it"
    assert answer._request_id


async def test_an_answer_can_be_sent_back(client: AsyncOpenAI) -> None:
    first = await client.chat.completions.create(model=MODEL, messages=HI)
    conversation: list[Any] = [*HI, first.choices[0].message.model_dump(), {"role": "user", "content": "more"}]
    second = await client.chat.completions.create(model=MODEL, messages=conversation)
    assert second.choices[0].message.content == TEXT


async def test_max_tokens_ends_by_length(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=HI, max_completion_tokens=3)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("The quick brown", "length")


async def test_chat_stream(client: AsyncOpenAI) -> None:
    chunks = [chunk async for chunk in await client.chat.completions.create(model=MODEL, messages=HI, stream=True)]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant"] + [None] * (len(chunks) - 1)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None and "usage" not in chunk.model_fields_set for chunk in chunks)


async def test_usage_is_the_last_chunk_if_asked_for(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=HI, stream=True, stream_options={"include_usage": True})
    *chunks, last = [chunk async for chunk in stream]
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (10, 11)


async def test_the_streaming_helper_accumulates_one_answer(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model=MODEL, messages=HI, stream_options={"include_usage": True}) as stream:
        deltas = [event.delta async for event in stream if event.type == "content.delta"]
        final = await stream.get_final_completion()
    assert tuple(delta for delta in deltas if delta) == PANGRAM
    assert (final.choices[0].message.role, final.choices[0].message.content) == ("assistant", TEXT)
    assert final.usage is not None
    assert final.usage.total_tokens == 21


async def test_completions(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt="one two three", max_tokens=4)
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == ("text_completion", "The quick brown fox", "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)
    by_ids = await client.completions.create(model=MODEL, prompt=[5, 6], max_tokens=1)
    assert by_ids.usage is not None
    assert by_ids.usage.prompt_tokens == 2


async def test_completions_stream(client: AsyncOpenAI) -> None:
    stream = await client.completions.create(model=MODEL, prompt="one", stream=True, stream_options={"include_usage": True})
    *chunks, last = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert last.usage.completion_tokens == 11


async def test_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("other/model")


async def test_a_bad_request_is_named(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=HI, temperature=3)
    error = caught.value
    assert (error.code, error.param, error.type) == ("invalid_value", "temperature", "invalid_request_error")
    assert error.request_id
    assert "at most 2, got 3" in error.message


async def test_an_unsupported_tool_is_named(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model=MODEL, messages=HI, tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        )
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")


async def test_an_unknown_model_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="gpt-5", messages=HI)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_a_conflict_is_not_retried(client: AsyncOpenAI) -> None:
    headers = {"Idempotency-Key": "k"}
    await client.chat.completions.create(model=MODEL, messages=HI, extra_headers=headers)
    before = await counted_requests(client)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await client.chat.completions.create(model=MODEL, messages=HI, seed=9, extra_headers=headers)
    assert caught.value.code == "idempotency_conflict"
    assert await counted_requests(client) == before + 1


async def test_a_replay_is_the_same_answer(client: AsyncOpenAI, queue: Queue) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await client.chat.completions.create(model=MODEL, messages=HI, extra_headers=headers)
    raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=HI, extra_headers=headers)
    assert raw.headers["idempotent-replayed"] == "true"
    assert raw.parse() == first
    assert len(await queue.list_jobs("default", after=None, limit=9)) == 1


async def test_a_stream_survives_silence(client: AsyncOpenAI, pace: Pace) -> None:
    pace.hold()
    stream = await client.chat.completions.create(model=MODEL, messages=HI, stream=True)
    chunks = [await anext(stream)]
    for _ in range(3):
        # Several ping intervals: what the client reads meanwhile must not look like an event to it.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.shield(waiting := asyncio.ensure_future(anext(stream)))
        pace.allow(1)
        chunks.append(await waiting)
    pace.release()
    chunks += [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT


@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_unfinished_answer_raises(client: AsyncOpenAI, queue: Queue, server: Server, pace: Pace, cancelled: bool) -> None:
    """Cut text must never look like an answer: not when the server stops, nor when the job is stopped."""
    pace.hold()
    stream = await client.chat.completions.create(model=MODEL, messages=HI, stream=True)
    pace.allow(2)
    read = [await anext(stream) for _ in range(3)]
    assert read[-1].choices[0].delta.content == " quick"
    if cancelled:
        await client.post(f"/jobs/{read[0].id}/cancel", cast_to=object)
    else:
        server.request_stop()
    with pytest.raises(openai.APIError) as caught:
        await anext(stream)
    assert isinstance(caught.value, openai.APIConnectionError) is not cancelled
    assert (caught.value.code == "cancelled") is cancelled


class TestFailures:
    @pytest.fixture(autouse=True)
    async def worker(self, queue: Queue) -> AsyncIterator[ScriptedWorker]:
        script = Script(("The",), end=State.FAILED, reason="the prompt never fits")
        async with ScriptedWorker(queue, model=MODEL, script=lambda _: script).run() as worker:
            yield worker

    async def test_a_failed_request_is_not_sent_again(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model=MODEL, messages=HI)
        assert caught.value.code == "generation_failed"
        assert "the prompt never fits" in caught.value.message
        assert await counted_requests(client) == 1

    async def test_a_failed_stream_raises_after_its_text(self, client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(model=MODEL, messages=HI, stream=True)
        assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["", "The"]
        with pytest.raises(openai.APIError, match="the prompt never fits"):
            await anext(stream)


async def test_a_cancelled_call_is_not_retried(client: AsyncOpenAI, queue: Queue, pace: Pace) -> None:
    pace.hold()
    calling = asyncio.ensure_future(client.chat.completions.create(model=MODEL, messages=HI))
    [job] = await eventually(lambda: queue.list_jobs("default", after=None, limit=9))
    await client.post(f"/jobs/{job.request.id}/cancel", cast_to=object)
    with pytest.raises(openai.ConflictError) as caught:
        await calling
    assert caught.value.code == "cancelled"
    assert len(await queue.list_jobs("default", after=None, limit=9)) == 1


async def test_the_synchronous_client_too(url: str) -> None:
    def call() -> tuple[str | None, str]:
        with OpenAI(base_url=f"{url}/v1", api_key="unused", timeout=20) as client:
            whole = client.chat.completions.create(model=MODEL, messages=HI).choices[0].message.content
            stream = client.chat.completions.create(model=MODEL, messages=HI, stream=True)
            return whole, "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(call) == (TEXT, TEXT)
