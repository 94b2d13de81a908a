"""Two hundred streams at once, with the engine killed -9 five times on the way."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from headrace.client import DONE
from headrace.cursor import Cursor, parse_cursor
from headrace.testing.eventually import eventually
from headrace.testing.tree import ENGINE, Tree, running_tree

STREAMS = 200
PROMPTS = 20
TOKENS = 24
KILLS = 5
WITHIN_S = 250.0


@dataclass
class Reading:
    """What one client saw."""

    cursors: list[Cursor] = field(default_factory=list)
    text: str = ""
    job_id: str = ""
    finish_reason: str | None = None
    done: bool = False


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    with running_tree(tmp_path / "data") as running:
        yield running


def body(prompt: int) -> dict[str, object]:
    content = f"Tell me {prompt + 2} facts about rivers."
    return {"messages": [{"role": "user", "content": content}], "max_tokens": TOKENS, "temperature": 0}


async def read(client: httpx.AsyncClient, prompt: int) -> Reading:
    reading, event_id = Reading(), ""
    async with client.stream("POST", "/v1/chat/completions", json={**body(prompt), "stream": True}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                reading.cursors.append(parse_cursor(event_id, param="id"))
                note(reading, line[6:])
    return reading


def note(reading: Reading, data: str) -> None:
    assert not reading.done, "something came behind [DONE]"
    if data == DONE:
        reading.done = True
        return
    chunk = json.loads(data)
    assert "error" not in chunk, chunk
    reading.job_id = chunk["id"].removeprefix("chatcmpl-")
    [choice] = chunk["choices"]
    reading.text += choice["delta"].get("content") or ""
    reading.finish_reason = choice["finish_reason"]


async def kill_engines(tree: Tree, client: httpx.AsyncClient, jobs_done: "list[asyncio.Task[Reading]]") -> None:
    """Each time a further sixth of the streams has ended, and the engine of the last kill is replaced."""
    for kill in range(1, KILLS + 1):

        async def due(kill: int = kill) -> bool:
            return sum(task.done() for task in jobs_done) >= STREAMS * kill // (KILLS + 1) and bool(tree.pids(*ENGINE))

        await eventually(due, WITHIN_S, pause=0.02)
        tree.kill(*ENGINE)


async def test_streams_survive_five_dead_engines(tree: Tree) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=tree.url, timeout=WITHIN_S, limits=limits) as client:
        undisturbed = [(await client.post("/v1/chat/completions", json=body(i))).json() for i in range(PROMPTS)]
        texts = [answer["choices"][0]["message"]["content"] for answer in undisturbed]
        tasks = [asyncio.create_task(read(client, i % PROMPTS)) for i in range(STREAMS)]
        await kill_engines(tree, client, tasks)
        readings = await asyncio.gather(*tasks)
        for number, reading in enumerate(readings):
            assert reading.done
            assert reading.finish_reason is None or reading.finish_reason in ("stop", "length")
            assert all(earlier < later for earlier, later in zip(reading.cursors, reading.cursors[1:], strict=False))
            job = (await client.get(f"/v1/jobs/{reading.job_id}")).json()
            assert (job["status"], job["output_text"]) == ("done", reading.text)
            assert job["result"]["choices"][0]["message"]["content"] == reading.text
            assert_same_or_tied(reading.text, texts[number % PROMPTS])
        assert len({reading.job_id for reading in readings}) == STREAMS
        assert max(reading.cursors[-1].epoch for reading in readings) > 1


def assert_same_or_tied(text: str, undisturbed: str) -> None:
    assert text == undisturbed
