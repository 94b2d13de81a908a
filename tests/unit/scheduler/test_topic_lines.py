"""Records of a topic as lines of an input file."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.testing.memory_topics import record
from scheduler.batches.batch_line import parse_line
from scheduler.batches.topic_input import Copying, line_of
from scheduler.batches.topic_output import result_record, without_answer
from scheduler.batches.validate import MAX_FAULTS, InputLimits

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
BODIES = st.dictionaries(TEXTS, st.recursive(st.none() | TEXTS | st.integers(-9, 9), lambda one: st.lists(one, max_size=3)), max_size=3)


class Sink:
    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.lines.append(data)
        return len(data)


@given(BODIES, st.booleans(), st.sampled_from([b"", b"\n", b"\r\n"]))
def test_a_request_is_one_line_and_the_same(body: dict[str, object], pretty: bool, end: bytes) -> None:
    whole = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    value = orjson.dumps(whole, option=orjson.OPT_INDENT_2 if pretty else None) + end
    line = line_of(value)
    assert b"\n" not in line
    assert parse_line(line) == parse_line(value)
    assert pretty or line + end == value


@given(st.binary(max_size=40))
def test_anything_is_one_line_or_a_fault(value: bytes) -> None:
    try:
        line = line_of(value)
    except InvalidRequest:
        assert b"\n" in value.rstrip(b"\r\n")
    else:
        assert b"\n" not in line
        assert bool(line) == bool(value.strip())


@pytest.mark.parametrize("value", [b"", b"\n", b" \r\n \t", b"\r\n\n"])
def test_what_is_blank(value: bytes) -> None:
    assert line_of(value) == b""


def test_a_line_break_within_a_string_is_not_mended() -> None:
    with pytest.raises(InvalidRequest, match="not a JSON object"):
        line_of(b'{"custom_id": "a\nb", "method": "POST", "url": "u", "body": {}}')


def test_faults_are_as_many_as_are_told() -> None:
    limits = InputLimits(bytes=1 << 20, lines=10 * MAX_FAULTS, line_bytes=100)
    sink = Sink()
    copying = Copying("in", sink, limits)  # type: ignore[arg-type]  # all that it uses of a file
    copying.add([record("in", 0, offset, None, unreadable="bad") for offset in range(MAX_FAULTS + 5)])
    assert sink.lines == [b"\n"] * (MAX_FAULTS + 5)
    located = copying.copied.located([])
    assert len(located) == MAX_FAULTS
    assert (located[7].line, located[7].message) == (8, "in/0@7: bad")


def test_a_result_and_what_stays_of_one_that_is_too_large() -> None:
    data = orjson.dumps({"id": "batch_req_1", "custom_id": "ü", "response": {"status_code": 200}, "error": None})
    told = result_record("batch_1", "ü", 4, 9, answered=True, data=data)
    assert (told.key, told.value) == ("ü".encode(), data)
    assert dict(told.headers) == {
        "headrace-batch": b"batch_1",
        "headrace-line": b"5",
        "headrace-lines": b"9",
        "headrace-file": b"output",
    }
    short = without_answer(told)
    assert (short.key, short.headers) == (told.key, told.headers)
    value = orjson.loads(short.value)
    assert (value["custom_id"], value["response"], value["error"]["code"]) == ("ü", None, "result_too_large")
    assert f"{len(data)} bytes" in value["error"]["message"]
