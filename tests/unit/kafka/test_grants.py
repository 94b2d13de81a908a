import pytest

from headrace.errors import SettingsError
from headrace.kafka.grants import read_grants

TEXT = "reports=reports.in, reports=reports.out,a=a.*,a.b=a.b.*,open=*,"


@pytest.mark.parametrize(
    ("tenant", "topic", "allowed"),
    [
        ("reports", "reports.in", True),
        ("reports", "reports.out", True),
        ("reports", "reports.in2", False),
        ("reports", "reports", False),
        ("default", "reports.in", False),
        ("a", "a.in", True),
        ("b", "a.in", False),
        ("a.b", "a.b.in", True),
        ("a.b", "a.in", False),
        ("open", "anything", True),
        ("open", "headrace-like", True),
        ("open", "headrace.results", False),
        ("open", "headrace.requests", False),
        ("open", "__consumer_offsets", False),
        ("open", "with a blank", False),
        ("open", "", False),
        ("open", "x" * 250, False),
    ],
)
def test_who_may_use_what(tenant: str, topic: str, allowed: bool) -> None:
    assert read_grants(TEXT, "headrace").allows(tenant, topic) is allowed


def test_none_is_granted_by_itself() -> None:
    assert not read_grants("", "headrace").allows("default", "in")


def test_a_pattern_means_nothing_but_its_end() -> None:
    assert not read_grants("a=in.x", "headrace").allows("a", "in-x")


@pytest.mark.parametrize("text", ["in", "=in", "a=", "a=b*c", "a=b=c", "a b=in", "-a=in", "a=in;b=in"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(SettingsError, match="HEADRACE_KAFKA_BATCH_TOPICS must hold tenant=topic or tenant=beginning"):
        read_grants(f"x=y,{text}", "headrace")
