"""A batch through kill -9 of everything at random moments: every line once, in order, and exactly the answer that it would have had.

The engine is the scripted one, whose answers are known beforehand. `KILL_SEEDS=20` runs as many schedules; one is enough to notice.
"""

import os
import random
import time
from pathlib import Path

import openai
import orjson
import pytest

from headrace.model_folder import DEMO_MODEL
from headrace.settings import load_settings
from headrace.testing.scale import FULL_SIZE
from headrace.testing.tree import ENGINE, Tree, running_tree
from headrace.wire.prompter import FolderPrompter
from workers.backends.scripted import answer_to, text_of

LINES = 500 if FULL_SIZE else 200
TOKENS = 100
WITHIN_S = 240.0
VICTIMS = ("api", "engine", "clerk", "scheduler", "valkey")


def content(seed: int) -> bytes:
    return b"".join(
        orjson.dumps(
            {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {
                    "model": DEMO_MODEL,
                    "messages": [{"role": "user", "content": f"Count from {seed} to {number}."}],
                    "max_tokens": TOKENS + number % 7,
                },
            }
        )
        + b"\n"
        for number in range(LINES)
    )


def pids(tree: Tree, victim: str) -> list[int]:
    match victim:
        case "api":
            return tree.pids("producer_api")
        case "engine":
            return tree.pids(*ENGINE)
        case "clerk":
            return tree.pids("scheduler.batches")
        case "scheduler":
            return sorted(set(tree.pids("scheduler")) - set(tree.pids("scheduler.batches")))
        case _:
            return tree.pids("valkey-server")


def run_under_fire(tree: Tree, client: openai.OpenAI, batch_id: str, rng: random.Random) -> tuple[openai.types.Batch, int]:
    """Kill something every now and then until the batch ends. Returns it, and how often something died."""
    killed = 0
    give_up_at = time.monotonic() + WITHIN_S
    while time.monotonic() < give_up_at:
        time.sleep(rng.uniform(0.1, 2.5))
        for pid in pids(tree, rng.choice(VICTIMS)):
            os.kill(pid, 9)
            killed += 1
        try:
            batch = client.batches.retrieve(batch_id)
        except openai.APIError:
            continue  # it is starting again
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch, killed
    raise TimeoutError(f"the batch has not ended:\n{tree.logs()}")


@pytest.mark.parametrize("seed", range(int(os.environ.get("KILL_SEEDS", "1"))))
def test_every_line_has_its_answer_once(tmp_path: Path, seed: int) -> None:
    settings = load_settings()
    prompter = FolderPrompter.load(settings.model, settings.cache_dir)
    lines = content(seed)
    with running_tree(tmp_path / "data", {"HEADRACE_ENGINE": "scripted", "HEADRACE_LEASE_MS": "2000"}) as tree:
        client = openai.OpenAI(base_url=f"{tree.url}/v1", api_key="unused", max_retries=12)
        uploaded = client.files.create(file=("input.jsonl", lines), purpose="batch", extra_headers={"idempotency-key": "in"})
        batch = client.batches.create(
            input_file_id=uploaded.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_headers={"idempotency-key": "batch"},
        )
        batch, killed = run_under_fire(tree, client, batch.id, random.Random(seed))
        assert batch.status == "completed", tree.logs()
        assert batch.output_file_id is not None
        assert batch.error_file_id is None
        answered = [orjson.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert killed > 0
    asked = [orjson.loads(line) for line in lines.splitlines()]
    assert [one["custom_id"] for one in answered] == [one["custom_id"] for one in asked]
    for question, answer in zip(asked, answered, strict=True):
        expected = text_of(answer_to(prompter.chat(question["body"]["messages"]), question["body"]["max_tokens"]))
        assert answer["response"]["body"]["choices"][0]["message"]["content"] == expected
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (LINES, LINES, 0)
    assert batch.usage is not None
    assert batch.usage.output_tokens == sum(question["body"]["max_tokens"] for question in asked)
