"""Asking for a batch over a topic: what is settled when it is accepted, and every refusal by its field."""

from typing import Any

import httpx
import pytest

from headrace.batch import Span, TopicRange
from headrace.registries.connect import Registries
from headrace.testing.memory_topics import MemoryTopics
from producer_api.archive import Archive

IN, OUT = "in", "out"


@pytest.fixture
def topics() -> MemoryTopics:
    topics = MemoryTopics(granted=frozenset({("default", name) for name in (IN, OUT, "missing")}), first=10)
    topics.fill(IN, [b"{}"] * 5, [b"{}"] * 2)
    topics.fill("of-others", [b"{}"])
    topics.told[OUT] = []
    return topics


@pytest.fixture
def archive(archive: Archive, topics: MemoryTopics) -> Archive:
    return Archive(archive.files, archive.batches, archive.blobs, topics)


def body(**fields: Any) -> dict[str, Any]:
    return {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_topic": {"name": IN}} | fields


async def post(http: httpx.AsyncClient, status: int = 200, key: str | None = None, **fields: Any) -> dict[str, Any]:
    headers = {} if key is None else {"idempotency-key": key}
    response = await http.post("/v1/batches", json=body(**fields), headers=headers)
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_the_range_is_fixed_when_it_is_accepted(http: httpx.AsyncClient, archive: Archive, topics: MemoryTopics) -> None:
    batch = await post(http, output_topic=OUT)
    topics.fill(IN, [b"{}"] * 9, [b"{}"] * 9)
    whole = [{"partition": 0, "from": 10, "to": 15}, {"partition": 1, "from": 10, "to": 12}]
    assert (batch["input_topic"], batch["output_topic"]) == ({"name": IN, "partitions": whole}, OUT)
    assert batch["input_file_id"].startswith("file-")
    assert (await http.get(f"/v1/batches/{batch['id']}")).json() == batch
    assert (await archive.batches.get("default", batch["id"])).new.input_topic == TopicRange(
        topic=IN, spans=(Span(partition=0, start=10, end=15), Span(partition=1, start=10, end=12))
    )


async def test_of_a_batch_without_topics_nothing_is_shown(http: httpx.AsyncClient) -> None:
    file = (await http.post("/v1/files", files={"file": ("in.jsonl", b"{}\n")}, data={"purpose": "batch"})).json()
    batch = await post(http, input_file_id=file["id"], input_topic=None)
    assert not batch.keys() & {"input_topic", "output_topic"}
    assert (await post(http, input_file_id=file["id"], input_topic=None, output_topic=OUT))["output_topic"] == OUT


async def test_a_repeat_is_the_same_batch_whatever_became_of_the_topic(http: httpx.AsyncClient, topics: MemoryTopics) -> None:
    wanted = {"name": IN, "partitions": [{"partition": 0, "from": 10}]}
    batch = await post(http, key="k", input_topic=wanted)
    topics.fill(IN, [b"{}"] * 9)
    assert await post(http, key="k", input_topic=wanted) == batch
    topics.first = 12
    assert await post(http, key="k", input_topic=wanted) == batch
    topics.down = True
    assert await post(http, key="k", input_topic=wanted) == batch
    assert (await post(http, 503, key="other", input_topic=wanted))["error"]["code"] is not None


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input_topic": None}, "input_file_id", "missing_required_parameter"),
        ({"input_file_id": "file-" + "0" * 32}, "input_topic", "invalid_value"),
        ({"input_topic": "in"}, "input_topic", "invalid_type"),
        ({"input_topic": {}}, "input_topic.name", "missing_required_parameter"),
        ({"input_topic": {"name": "of-others"}}, "input_topic.name", "topic_not_allowed"),
        ({"input_topic": {"name": "nobodys"}}, "input_topic.name", "topic_not_allowed"),
        ({"input_topic": {"name": "missing"}}, "input_topic.name", "topic_not_found"),
        ({"input_topic": {"name": IN, "partitions": []}}, "input_topic.partitions", "invalid_value"),
        ({"input_topic": {"name": IN, "partitions": [{"partition": 2}]}}, "input_topic.partitions[0].partition", "invalid_value"),
        ({"input_topic": {"name": IN, "partitions": [{"partition": 0, "from": 9}]}}, "input_topic.partitions[0].from", "range_deleted"),
        ({"input_topic": {"name": IN, "partitions": [{"partition": 0, "to": 16}]}}, "input_topic.partitions[0].to", "invalid_value"),
        ({"output_topic": "of-others"}, "output_topic", "topic_not_allowed"),
        ({"output_topic": "missing"}, "output_topic", "topic_not_found"),
        ({"output_topic": {"name": OUT}}, "output_topic", "invalid_type"),
    ],
)
async def test_refusals(http: httpx.AsyncClient, fields: dict[str, Any], param: str, code: str) -> None:
    error = (await post(http, 400, **fields))["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert (await http.get("/v1/batches")).json()["data"] == []


class TestWithoutKafka:
    @pytest.fixture
    def archive(self, registries: Registries, archive: Archive) -> Archive:
        return Archive(archive.files, archive.batches, archive.blobs, registries.topics)

    @pytest.mark.parametrize(
        ("fields", "param"), [({}, "input_topic.name"), ({"output_topic": OUT, "input_topic": {"name": IN}}, "output_topic")]
    )
    async def test_it_says_what_is_missing(self, http: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
        error = (await post(http, 400, **fields))["error"]
        assert (error["param"], error["code"]) == (param, "unsupported_parameter")
        assert error["message"] == f"'{param}' needs Kafka, which this server has none of: HEADRACE_QUEUE_URL is not set."
