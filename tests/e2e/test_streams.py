"""Many streams at once (200 at full size), with the engine killed -9 again and again on the way."""

import asyncio
import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import httpx
import torch
from redis import Redis
from transformers import AutoModelForCausalLM

from headrace.client import DONE
from headrace.cursor import Cursor, parse_cursor
from headrace.model_folder import DEMO_MODEL
from headrace.testing.eventually import eventually
from headrace.testing.scale import FULL_SIZE
from headrace.testing.tree import ENGINE, Tree

STREAMS = 200 if FULL_SIZE else 40
PROMPTS = 20 if FULL_SIZE else 10
TOKENS = 24
KILLS = 5 if FULL_SIZE else 2
WITHIN_S = 250.0
TIE = 1e-3


@dataclass
class Reading:
    """What one client saw."""

    cursors: list[Cursor] = field(default_factory=list)
    text: str = ""
    job_id: str = ""
    finish_reason: str | None = None
    done: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens lie behind the last event seen."""
        return self.cursors[-1].n if self.cursors else 0


def body(prompt: int) -> dict[str, object]:
    content = f"Tell me {prompt + 2} facts about rivers."
    return {"model": DEMO_MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": TOKENS, "temperature": 0}


async def read(client: httpx.AsyncClient, prompt: int, reading: Reading) -> Reading:
    event_id = ""
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


async def kill_engines(tree: Tree, readings: list[Reading], tokens: int) -> None:
    """Each time the clients have a further part of the `tokens` they will get in all, and the engine of the last kill is replaced.

    Tokens are counted, not ended streams: streams of one length may all end in the same step, and then nobody is left to be hurt.
    """
    for kill in range(1, KILLS + 1):

        async def due(kill: int = kill) -> bool:
            return sum(reading.tokens for reading in readings) >= tokens * kill // (KILLS + 1) and bool(tree.pids(*ENGINE))

        await eventually(due, WITHIN_S, pause=0.02)
        tree.kill(*ENGINE)


async def test_streams_survive_dead_engines(tree: Tree, demo_model: Path) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=tree.url, timeout=WITHIN_S, limits=limits) as client:
        undisturbed = [await read(client, prompt, Reading()) for prompt in range(PROMPTS)]
        readings = [Reading() for _ in range(STREAMS)]
        async with asyncio.TaskGroup() as clients:
            for i, reading in enumerate(readings):
                clients.create_task(read(client, i % PROMPTS, reading))
            await kill_engines(tree, readings, sum(undisturbed[i % PROMPTS].tokens for i in range(STREAMS)))
        for reading in readings:
            assert reading.done
            assert all(earlier < later for earlier, later in pairwise(reading.cursors))
            job = (await client.get(f"/v1/jobs/{reading.job_id}")).json()
            assert (job["status"], job["output_text"]) == ("done", reading.text)
            assert job["result"]["choices"][0]["message"]["content"] == reading.text
    assert len({reading.job_id for reading in readings}) == STREAMS
    assert max(reading.cursors[-1].epoch for reading in readings) > 1
    ties = Ties(tree, demo_model)
    for number, reading in enumerate(readings):
        if reading.text != undisturbed[number % PROMPTS].text:
            ties.explain(reading.job_id, undisturbed[number % PROMPTS].job_id)


class Ties:
    """Greedy runs may part only where the model itself wavers: its two best logits for exactly that prefix lie within a thousandth."""

    def __init__(self, tree: Tree, folder: Path) -> None:
        self._store = Redis(unix_socket_path=str(tree.socket_path))
        self._folder = folder

    def explain(self, job_id: str, undisturbed_id: str) -> None:
        """Raises AssertionError unless the two jobs' tokens part at a tie."""
        prompt, ids, others = self._prompt(job_id), self._tokens(job_id), self._tokens(undisturbed_id)
        place = next(i for i, (one, other) in enumerate(zip(ids, others, strict=False)) if one != other)
        logits = self._logits([*prompt, *ids[:place]])
        best, second = sorted(logits, reverse=True)[:2]
        assert best - second <= TIE, f"job {job_id} parts at {place} though the best logits are {best} and {second}"
        assert min(logits[ids[place]], logits[others[place]]) >= second

    def _prompt(self, job_id: str) -> list[int]:
        body: dict[str, Any] = json.loads(cast(bytes, self._store.get(f"headrace:{{00}}:body:{job_id}")))
        return list(body["prompt_ids"])

    def _tokens(self, job_id: str) -> list[int]:
        entries = cast(list[tuple[bytes, dict[bytes, bytes]]], self._store.xrange(f"headrace:{{00}}:log:{job_id}"))
        return [token for _, fields in entries if b"d" in fields for token in json.loads(fields[b"d"])[1]]

    def _logits(self, ids: list[int]) -> list[float]:
        model: Any = AutoModelForCausalLM.from_pretrained(self._folder, dtype=torch.float32)
        with torch.inference_mode():
            logits: list[float] = model(torch.tensor([ids])).logits[0, -1].tolist()
        return logits
