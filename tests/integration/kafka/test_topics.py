import asyncio
import threading

import pytest
from kafka import KafkaAdminClient

from headrace.errors import LogUnavailable, SettingsError
from headrace.kafka.address import Address, address_of
from headrace.kafka.topics import create, shapes
from headrace.settings import Settings
from headrace.testing.kafka import KafkaSite
from headrace.testing.tree import free_port


def address(settings: Settings) -> Address:
    found = address_of(settings)
    assert found is not None
    return found


def test_what_is_missing_is_made_once(kafka: KafkaSite) -> None:
    settings = kafka.settings(kafka_partitions=3)
    made = create(address(settings), shapes(settings))
    assert made == [f"{kafka.prefix}.{name}" for name in ("accepted", "requests", "results", "tokens", "dead-letter")]
    assert create(address(settings), shapes(settings)) == []
    with KafkaAdminClient(**address(settings).options()) as admin:
        found = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(made)}
    assert found == dict.fromkeys(made, 3)


def test_one_that_is_there_is_left_as_it_is(kafka: KafkaSite) -> None:
    few, many = kafka.settings(kafka_partitions=1), kafka.settings(kafka_partitions=4)
    accepted, *others = shapes(many)
    create(address(few), shapes(few)[:1])
    assert create(address(many), shapes(many)) == [shape.name for shape in others]
    with KafkaAdminClient(**address(many).options()) as admin:
        assert len(admin.describe_topics([accepted.name])[0]["partitions"]) == 1


async def test_several_at_once_make_each_topic_once(kafka: KafkaSite) -> None:
    settings = kafka.settings()
    calls = (asyncio.to_thread(create, address(settings), shapes(settings)) for _ in range(4))
    made = [name for names in await asyncio.gather(*calls) for name in names]
    assert sorted(made) == sorted(shape.name for shape in shapes(settings))


def test_a_broker_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.kafka.topics.ANSWER_S", 0.5)
    nobody = Address(servers=(f"127.0.0.1:{free_port()}",))
    with pytest.raises(LogUnavailable, match="did not make the topics"):
        create(nobody, shapes(Settings(queue_url=str(nobody))))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kafka-io")]


def test_acknowledged_records_outlive_a_broker_where_there_are_enough() -> None:
    def configs(replicas: int) -> dict[str, str]:
        return shapes(Settings(queue_url="kafka://a", kafka_replicas=replicas))[0].configs

    assert configs(3)["min.insync.replicas"] == "2"
    assert "min.insync.replicas" not in configs(2)


def test_topics_that_would_forget_what_may_still_run_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"HEADRACE_KAFKA_RETENTION_S must be at least .* 90000, got 89999"):
        shapes(Settings(queue_url="kafka://a", job_ttl_s=86_400, retention_s=3_600, kafka_retention_s=89_999))
    assert shapes(Settings(queue_url="kafka://a", job_ttl_s=86_400, retention_s=3_600, kafka_retention_s=90_000))


def test_results_are_compacted_and_large_records_pass() -> None:
    by_name = {shape.name: shape.configs for shape in shapes(Settings(queue_url="kafka://a"))}
    assert "compact" in by_name["headrace.results"]["cleanup.policy"]
    assert "compact" not in by_name["headrace.accepted"]["cleanup.policy"]
    assert all(int(configs["max.message.bytes"]) > 4 * 1024 * 1024 for configs in by_name.values())
