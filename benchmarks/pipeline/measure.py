"""What is measured at one API: how many requests it accepts, how long each takes, and how long until a first token."""

import asyncio
import time
from contextlib import AsyncExitStack

import httpx

from benchmarks.pipeline.connection import chat, connected
from benchmarks.pipeline.sample import Accepting
from headrace.model_folder import DEMO_MODEL
from headrace.testing.eventually import eventually

JOB_TOKENS = 1
"""Of each accepted job: the worker must keep up, and be in nobody's way."""
STREAM_TOKENS = 8
WITHIN_S = 120.0


async def accepting(url: str, clients: int, seconds: float) -> Accepting:
    """Each client asks again as soon as it is answered. Returns once what was accepted has ended, so that nobody else's time is taken."""
    body, taken = chat(DEMO_MODEL, max_tokens=JOB_TOKENS), list[float]()
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connected(url)) for _ in range(clients)]
        began = time.perf_counter()

        async def ask(number: int) -> None:
            while time.perf_counter() - began < seconds:
                taken.append(await connections[number].submit(body))

        await asyncio.gather(*map(ask, range(clients)))
        took = time.perf_counter() - began
    await idle(url)
    return Accepting(seconds=took, latencies=taken)


async def first_tokens(url: str, n: int) -> list[float]:
    """Seconds from a POST to the first token of its stream, one stream after the other."""
    taken, body = [], chat(DEMO_MODEL, max_tokens=STREAM_TOKENS, stream=True)
    async with httpx.AsyncClient(base_url=url, timeout=WITHIN_S) as client:
        for _ in range(n):
            began, first = time.perf_counter(), 0.0
            headers = {"content-type": "application/json"}
            async with client.stream("POST", "/v1/chat/completions", content=body, headers=headers) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if not first and line.startswith("id: ") and not line.startswith("id: 0-"):  # the role's event has epoch 0
                        first = time.perf_counter() - began
            taken.append(first)
    return taken


async def idle(url: str) -> None:
    """Until nothing that was accepted is left to do."""
    async with httpx.AsyncClient(base_url=url, timeout=WITHIN_S) as client:

        async def nothing_left() -> bool:
            return "headrace_live_cost_tokens 0.0" in (await client.get("/metrics")).text.splitlines()

        await eventually(nothing_left, WITHIN_S, pause=0.1)
