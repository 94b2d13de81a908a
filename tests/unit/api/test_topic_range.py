"""Which records a batch is fed from, and why not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace.batch import Bounds, Span
from headrace.errors import InvalidRequest
from headrace.wire.problems import explain
from producer_api.batch_body import InputTopic
from producer_api.topic_range import settle

BOUNDS = {0: Bounds(40, 120), 1: Bounds(0, 0), 2: Bounds(7, 9)}


def asked(*partitions: dict[str, Any]) -> InputTopic:
    return InputTopic.model_validate({"name": "in", "partitions": list(partitions)})


def spans(*partitions: dict[str, Any]) -> list[tuple[int, int, int]]:
    return [(one.partition, one.start, one.end) for one in settle(asked(*partitions), BOUNDS)]


def test_all_of_it() -> None:
    whole = InputTopic.model_validate({"name": "in"})
    assert settle(whole, BOUNDS) == tuple(Span(partition=one, start=there.start, end=there.end) for one, there in BOUNDS.items())


def test_parts_of_it() -> None:
    assert spans({"partition": 2}, {"partition": 0, "from": 50, "to": 60}) == [(0, 50, 60), (2, 7, 9)]
    assert spans({"partition": 0, "from": 119}, {"partition": 1, "from": 0, "to": 0}) == [(0, 119, 120), (1, 0, 0)]
    assert spans({"partition": 0, "from": None, "to": 41}) == [(0, 40, 41)]


@pytest.mark.parametrize(
    ("partition", "param", "code", "message"),
    [
        ({"partition": 3}, "partition", "invalid_value", "must be one of the 3 partitions of 'in', got 3."),
        ({"partition": 2}, "partition", "invalid_value", "names partition 2 for the second time."),
        ({"partition": 0, "from": 39}, "from", "range_deleted", "is 39, but the offsets before 40 of partition 0 are deleted."),
        ({"partition": 0, "to": 121}, "to", "invalid_value", "must be at most 120, where partition 0 ends now, got 121."),
        ({"partition": 0, "from": 121}, "from", "invalid_value", "must be at most 120, got 121."),
        ({"partition": 0, "from": 60, "to": 59}, "from", "invalid_value", "must be at most 59, got 60."),
        ({"partition": 0, "to": 39}, "to", "invalid_value", "must be at least 40, got 39."),
    ],
)
def test_what_is_not_there(partition: dict[str, Any], param: str, code: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        settle(asked({"partition": 2}, partition), BOUNDS)
    field = f"input_topic.partitions[1].{param}"
    assert (caught.value.param, caught.value.code, caught.value.message) == (field, code, f"'{field}' {message}")


@given(st.integers(0, 130) | st.none(), st.integers(0, 130) | st.none())
def test_a_span_lies_within_what_is_there(start: int | None, end: int | None) -> None:
    outside = any(one is not None and not 40 <= one <= 120 for one in (start, end))
    if outside or (start is not None and end is not None and start > end):
        with pytest.raises(InvalidRequest):
            settle(asked({"partition": 0, "from": start, "to": end}), BOUNDS)
        return
    [span] = settle(asked({"partition": 0, "from": start, "to": end}), BOUNDS)
    assert 40 <= span.start <= span.end <= 120
    assert start in (None, span.start)
    assert end in (None, span.end)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"partition": 0, "from": 1, "to": 2, "until": 3}, "partitions[0].until", "unknown_parameter"),
        ({"partition": 0, "start": 1}, "partitions[0].start", "unknown_parameter"),
        ({"from": 1}, "partitions[0].partition", "missing_required_parameter"),
        ({"partition": 0, "from": -1}, "partitions[0].from", "invalid_value"),
        ({"partition": 0, "to": "9"}, "partitions[0].to", "invalid_type"),
        ({"partition": True}, "partitions[0].partition", "invalid_type"),
    ],
)
def test_what_is_no_range_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        asked(fields)
    error = explain(caught.value)
    assert (error.param, error.code) == (param, code)
