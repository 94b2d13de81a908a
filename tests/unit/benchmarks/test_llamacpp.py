"""How the runner reads what llama.cpp's server streams."""

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from benchmarks.engines.llamacpp import run
from benchmarks.item import Item


def _client(events: Sequence[object], asked: list[dict[str, Any]] | None = None, status: int = 200) -> httpx.AsyncClient:
    def answer(request: httpx.Request) -> httpx.Response:
        if asked is not None:
            asked.append(json.loads(request.content))
        return httpx.Response(status, text="".join(f"data: {json.dumps(event)}\n\n" for event in events))

    return httpx.AsyncClient(base_url="http://server", transport=httpx.MockTransport(answer))


async def test_tokens_are_counted_as_the_server_counts_them() -> None:
    # The second of four has half a character: it comes with the third. The last event repeats the total.
    events = [{"tokens_predicted": 1}, {"tokens_predicted": 3}, {"tokens_predicted": 4}, {"tokens_predicted": 4, "stop": True}]
    asked: list[dict[str, Any]] = []
    async with _client(events, asked) as client:
        figures = (await run(client, [Item((1, 2), 4), Item((3,), 4)])).figures()

    assert (figures.requests, figures.prompt_tokens, figures.output_tokens) == (2, 3, 8)
    assert sorted(body["prompt"] for body in asked) == [[1, 2], [3]]
    assert all(body["n_predict"] == 4 and body["ignore_eos"] and body["stream"] and not body["cache_prompt"] for body in asked)


async def test_an_error_in_a_stream_is_told() -> None:
    async with _client([{"error": {"message": "no room"}}]) as client:
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="request 0: .*no room")):
            await run(client, [Item((1,), 1)])


async def test_a_refusal_is_told() -> None:
    async with _client([], status=400) as client:
        with pytest.RaisesGroup(httpx.HTTPStatusError):
            await run(client, [Item((1,), 1)])
