import pytest
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.testing.kafka import KafkaSite


@pytest.fixture
def environ(kafka: KafkaSite, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HEADRACE_QUEUE_URL", f"kafka://{kafka.servers}")
    monkeypatch.setenv("HEADRACE_KAFKA_PREFIX", kafka.prefix)
    monkeypatch.setenv("HEADRACE_KAFKA_PARTITIONS", "3")
    return kafka.prefix


def said(*arguments: str, code: int = 0) -> list[str]:
    result = CliRunner().invoke(app, ["kafka", "init", *arguments])
    assert result.exit_code == code, result.output
    return result.output.splitlines()


def test_topics_are_made_once_and_told(environ: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{environ}.{name}" for name in ("accepted", "requests", "results", "tokens", "dead-letter")]
    assert said("--dry-run") == [f"{name}: missing, 3 partitions" for name in names]
    assert said() == [f"{name}: made, 3 partitions" for name in names]
    assert said() == [f"{name}: there" for name in names]
    monkeypatch.setenv("HEADRACE_KAFKA_PARTITIONS", "4")
    assert said() == [f"{name}: there; partitions is 3, wanted 4" for name in names]


def test_without_kafka_there_is_nothing_to_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_QUEUE_URL", raising=False)
    assert "HEADRACE_QUEUE_URL is not set" in "".join(said(code=1))


def test_brokers_that_are_not_there_are_named_without_their_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_QUEUE_URL", "kafka://somebody:secret@127.0.0.1:1")
    monkeypatch.setattr("headrace.kafka.topics.ANSWER_S", 0.5)
    output = "".join(said(code=1))
    assert "127.0.0.1:1" in output
    assert "did not tell of its topics" in output
    assert "secret" not in output
