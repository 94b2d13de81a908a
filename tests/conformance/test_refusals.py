"""The official client at a bound: it understands the refusal, waits as long as it is told, and comes back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from headrace.queues.rules import QueueLimits
from headrace.testing.backend import Backend
from headrace.testing.bench import Queue
from headrace.testing.eventually import eventually
from headrace.testing.scripted_worker import PANGRAM, Pace

HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def queue(backend: Backend) -> AsyncIterator[Queue]:
    async with backend.open(limits=QueueLimits(max_tenant_jobs=1)) as queue:
        yield queue


async def test_it_comes_back_when_it_was_told_to(client: AsyncOpenAI, queue: Queue, pace: Pace) -> None:
    async def ask() -> str | None:
        answer = await client.chat.completions.create(model="test-model", messages=HI)
        return answer.choices[0].message.content

    async def one_runs() -> bool:
        return (await queue.load()).running == 1

    pace.hold()
    first = asyncio.create_task(ask())
    await eventually(one_runs)
    with pytest.raises(openai.RateLimitError) as refused:
        await client.with_options(max_retries=0).chat.completions.create(model="test-model", messages=HI)
    assert refused.value.code == "rate_limit_exceeded"
    assert "1 live jobs, the limit is 1" in refused.value.message

    async def refused_again() -> bool:
        return 'status="429"} 2.0' in await client.get("/../metrics", cast_to=str)

    second = asyncio.create_task(ask())
    await eventually(refused_again, pause=0.01)
    pace.release()
    assert await first == await second == "".join(PANGRAM)
