"""A batch from a topic to a topic through kill -9 of the clerk: while it copies the range, and while it answers."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import openai
import orjson
import pytest
from kafka import KafkaConsumer, TopicPartition
from openai.types import Batch

from headrace.model_folder import DEMO_MODEL
from headrace.testing.kafka import KafkaSite, read_all
from headrace.testing.kafka_bench import make_topics
from headrace.testing.own_topics import make_topic, write
from headrace.testing.tree import Tree, running_tree
from scheduler.batches.topic_output import PAGE

LINES = 1_200
WITHIN_S = 120.0
CLERK = "scheduler.batches"

T = TypeVar("T")


def value(number: int) -> bytes:
    body = {"model": DEMO_MODEL, "messages": [{"role": "user", "content": f"Say {number}."}], "max_tokens": 2 + number % 3}
    return orjson.dumps({"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


def until(look: Callable[[], T | None], pause: float = 0.002) -> T:
    give_up_at = time.monotonic() + WITHIN_S
    while time.monotonic() < give_up_at:
        if found := look():
            return found
        time.sleep(pause)
    raise TimeoutError(f"not within {WITHIN_S} s")


def kill_clerk(tree: Tree, when: Callable[[], object]) -> None:
    [pid] = until(lambda: tree.pids(CLERK), pause=0.1)
    until(when)
    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def tree(kafka: KafkaSite, tmp_path: Path) -> Iterator[Tree]:
    make_topics(kafka)
    environ = {
        "HEADRACE_ENGINE": "scripted",
        "HEADRACE_QUEUE_URL": f"kafka://{kafka.servers}",
        "HEADRACE_KAFKA_PREFIX": kafka.prefix,
        "HEADRACE_KAFKA_BATCH_TOPICS": f"default={kafka.prefix}-*",
    }
    with running_tree(tmp_path / "data", environ) as tree:
        yield tree


@pytest.fixture
def out(kafka: KafkaSite) -> str:
    return make_topic(kafka, "out", 1)


@pytest.fixture
def first_told(kafka: KafkaSite, out: str) -> Iterator[Callable[[], bool]]:
    """Whether something is in the output topic."""
    with KafkaConsumer(bootstrap_servers=kafka.servers.split(","), auto_offset_reset="earliest", fetch_max_wait_ms=5) as consumer:
        consumer.assign([TopicPartition(out, 0)])
        yield lambda: bool(consumer.poll(timeout_ms=5))


def test_every_line_is_in_the_topic_and_in_the_file(tree: Tree, kafka: KafkaSite, out: str, first_told: Callable[[], bool]) -> None:
    topic = make_topic(kafka, "in", 2)
    write(kafka, topic, [b"not of this batch", *(value(number) for number in range(LINES // 2))])
    write(kafka, topic, [value(number) for number in range(LINES // 2, LINES)], partition=1)
    client = openai.OpenAI(base_url=f"{tree.url}/v1", api_key="unused", max_retries=12)
    wanted = {"name": topic, "partitions": [{"partition": 0, "from": 1}, {"partition": 1}]}
    batch = client.batches.create(
        input_file_id=None,  # type: ignore[arg-type]  # the range is the input
        endpoint="/v1/chat/completions",
        completion_window="24h",
        extra_body={"input_topic": wanted, "output_topic": out},
    )
    assert batch.to_dict()["output_topic"] == out
    scratch = tree.data_dir / "files" / "scratch"
    kill_clerk(tree, lambda: any(scratch.iterdir()))
    assert client.batches.retrieve(batch.id).status == "validating"
    assert list(scratch.iterdir()), "the clerk was not in the middle of copying"
    write(kafka, topic, [b"too late"])
    kill_clerk(tree, first_told)
    told = len(read_all(kafka.servers, out))
    assert 0 < told < LINES, "the clerk was not in the middle of answering"
    assert client.batches.retrieve(batch.id).status == "finalizing"

    def ended() -> Batch | None:
        found = client.batches.retrieve(batch.id)
        return found if found.status in ("completed", "failed") else None

    batch = until(ended, pause=0.2)
    assert batch.status == "completed", batch.errors
    answers = client.files.content(batch.output_file_id or "").text.splitlines()
    assert [orjson.loads(line)["custom_id"] for line in answers] == [f"line-{number}" for number in range(LINES)]
    check_told(kafka, out, batch.id, answers)
    copied = client.files.content(batch.input_file_id).content
    assert copied == b"".join(value(number) + b"\n" for number in range(LINES))


def check_told(kafka: KafkaSite, out: str, batch_id: str, answers: list[str]) -> None:
    """As a consumer reads it that keeps the first of what has the same batch and line."""
    found: dict[tuple[str, int], bytes] = {}
    records = read_all(kafka.servers, out)
    for record in records:
        headers = {name: value.decode() for name, value in record.headers}
        assert headers["headrace-lines"] == str(LINES)
        line = headers["headrace-batch"], int(headers["headrace-line"])
        assert found.setdefault(line, record.value) == record.value, "the same bytes each time"
        assert record.key == f"line-{line[1] - 1}".encode()
    assert found == {(batch_id, number): answer.encode() for number, answer in enumerate(answers, 1)}
    assert len(records) <= LINES + 2 * PAGE
