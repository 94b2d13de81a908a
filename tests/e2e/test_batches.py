"""Batches through the official client, on the real model."""

import time
from collections.abc import Callable

import openai
import orjson
from openai.types import Batch

from headrace.model_folder import DEMO_MODEL

ENDED = ("completed", "failed", "expired", "cancelled")
WITHIN_S = 150.0


def lines(count: int, *, max_tokens: int) -> bytes:
    bodies = (
        {
            "model": DEMO_MODEL,
            "messages": [{"role": "user", "content": f"Say the number {number}."}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        for number in range(count)
    )
    return b"\n".join(
        orjson.dumps({"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})
        for number, body in enumerate(bodies)
    )


def start(client: openai.OpenAI, content: bytes) -> Batch:
    file = client.files.create(file=("input.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"for": "test"})


def until(client: openai.OpenAI, batch: Batch, reached: Callable[[Batch], bool]) -> Batch:
    give_up_at = time.monotonic() + WITHIN_S
    while time.monotonic() < give_up_at:
        batch = client.batches.retrieve(batch.id)
        if reached(batch):
            return batch
        time.sleep(0.05)
    raise TimeoutError(f"not reached: {batch}")


def ended(batch: Batch) -> bool:
    return batch.status in ENDED


def results(client: openai.OpenAI, file_id: str | None) -> list[dict[str, object]]:
    return [] if file_id is None else [orjson.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_every_line_is_answered_in_order(client: openai.OpenAI) -> None:
    batch = until(client, start(client, lines(24, max_tokens=6)), ended)
    assert batch.status == "completed"
    assert batch.model == DEMO_MODEL
    assert batch.metadata == {"for": "test"}
    assert batch.errors is None
    assert batch.error_file_id is None
    answers = results(client, batch.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"line-{number}" for number in range(24)]
    for answer in answers:
        completion = openai.types.chat.ChatCompletion.model_validate(answer["response"]["body"])  # type: ignore[index]  # as it was sent
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 6
        assert completion.choices[0].finish_reason == "length"
        assert completion.choices[0].message.content
    assert batch.usage is not None
    assert batch.usage.output_tokens == 24 * 6


def test_a_cancelled_batch_keeps_its_answers_and_every_line_is_accounted_for(client: openai.OpenAI) -> None:
    # More lines than are in flight at once, so that some have not begun when others are done.
    batch = start(client, lines(150, max_tokens=12))
    batch = until(client, batch, lambda one: one.request_counts is not None and one.request_counts.completed > 0)
    assert batch.output_file_id is not None
    partial = client.files.with_raw_response.content(batch.output_file_id)
    assert partial.headers.get("x-incomplete") == "true"
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = until(client, batch, ended)
    assert batch.status == "cancelled"
    answers, errors = results(client, batch.output_file_id), results(client, batch.error_file_id)
    assert answers
    assert errors
    assert sorted(str(one["custom_id"]) for one in answers + errors) == sorted(f"line-{number}" for number in range(150))
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}  # type: ignore[index]  # as it was sent
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (len(answers), len(errors))


def test_a_bad_file_is_refused_and_named(client: openai.OpenAI) -> None:
    batch = until(client, start(client, lines(2, max_tokens=4) + b"\n{\n" + lines(1, max_tokens=4)), ended)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert [(error.code, error.line) for error in batch.errors.data or []] == [("invalid_json_line", 3), ("duplicate_custom_id", 4)]
    assert batch.output_file_id is None
