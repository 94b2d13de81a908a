"""What a native client's record says, and in which words it is refused."""

from typing import Any

import orjson
import pytest

from headrace.errors import ContextLengthExceeded, InvalidRequest, RequestError
from headrace.kafka.log_record import LogRecord
from headrace.kafka.native import DeadLetter, DeadlinePassed, Native, read_native, submission_of
from headrace.kafka.result import dead_letter
from headrace.kafka.window import Partition
from headrace.ports import Submission
from headrace.request import Endpoint, Lane
from headrace.testing.words import WordPrompter
from headrace.wire.native_key import client_id_of

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 5}
NOW = 1_700_000_000_000


def record(value: Any, *headers: tuple[str, bytes], offset: int = 3) -> LogRecord:
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    place = Partition("headrace.requests", 1)
    return LogRecord(partition=place, offset=offset, timestamp_ms=NOW - 5_000, key=b"k", value=data, headers=headers)


def read(value: Any, *headers: tuple[str, bytes], offset: int = 3) -> Native:
    return read_native(record(value, *headers, offset=offset), None, 1)


def submit(value: Any, *headers: tuple[str, bytes]) -> Submission:
    return submission_of(read(value, *headers), lambda _: WordPrompter(), now_ms=NOW, longest_ms=60_000)


def test_a_request_as_it_goes_to_the_queue() -> None:
    submission = submit({"id": "a", "body": BODY}, ("priority", b"batch"), ("deadline", str(NOW + 1_500).encode()))
    request = submission.request
    assert (request.endpoint, request.lane, request.model, request.created) == (Endpoint.CHAT, Lane.BATCH, "m", 1_699_999_995)
    assert request.sampling.max_tokens == 5
    assert not request.attended
    assert submission.ttl_ms == 1_500
    assert client_id_of(submission.idempotency_key or "") == "a"


def test_a_completion_that_asks_to_stream_is_not_streamed() -> None:
    submission = submit({"id": "a", "endpoint": "/v1/completions", "body": {"model": "m", "prompt": "a b c", "stream": True}})
    assert submission.request.endpoint is Endpoint.COMPLETIONS
    assert not submission.request.stream


def test_the_same_record_is_the_same_job_and_another_one_is_not() -> None:
    value = {"id": "a", "body": BODY}
    assert submit(value) == submit(value)
    assert read(value).job_id != read(value, offset=4).job_id


def test_keys_say_whose_it_is() -> None:
    keys = {"k1": "alice"}.get
    assert read_native(record({"id": "a", "body": BODY}, ("Authorization", b"Bearer k1")), keys, 1).tenant == "alice"
    for header, why in [
        ((), "No API key was given"),
        ((("authorization", b"k1"),), "must be 'Bearer <key>'"),
        ((("authorization", b"Bearer k2"),), "is not known here"),
        ((("authorization", b"Bearer \xff"),), "must be ASCII"),
    ]:
        with pytest.raises(DeadLetter, match=why):
            read_native(record({"id": "a", "body": BODY}, *header), keys, 1)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "The record's value is empty"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "must be a JSON object, got an array"),
        ({"body": BODY}, "'id' is required"),
        ({"id": "a"}, "'body' is required"),
        ({"id": "", "body": BODY}, "'id' must not be empty"),
        ({"id": "two words", "body": BODY}, "visible ASCII"),
        ({"id": "x" * 256, "body": BODY}, "'id'"),
        ({"id": 7, "body": BODY}, "'id' must be a string"),
        ({"id": "a", "body": BODY, "boddy": 1}, "Unknown parameter: 'boddy'"),
    ],
)
def test_what_nobody_can_read_is_a_dead_letter(value: Any, why: str) -> None:
    with pytest.raises(DeadLetter, match=why):
        read(value)


@pytest.mark.parametrize(
    ("value", "headers", "error"),
    [
        ({"id": "a", "body": {"model": "m"}}, (), InvalidRequest),
        ({"id": "a", "body": {**BODY, "max_tokens": 10_000}}, (), ContextLengthExceeded),
        ({"id": "a", "endpoint": "/v1/embeddings", "body": BODY}, (), InvalidRequest),
        ({"id": "a", "body": BODY}, (("priority", b"urgent"),), InvalidRequest),
        ({"id": "a", "body": BODY}, (("deadline", b"soon"),), InvalidRequest),
        ({"id": "a", "body": BODY}, (("deadline", str(NOW - 1).encode()),), DeadlinePassed),
    ],
)
def test_what_cannot_be_run_is_refused(value: Any, headers: Any, error: type[RequestError]) -> None:
    with pytest.raises(error):
        submit(value, *headers)


def test_a_dead_letter_does_not_pass_on_the_key() -> None:
    letter = dead_letter(record(b"junk", ("authorization", b"Bearer k1"), ("trace", b"t")), "no JSON")
    assert dict(letter.headers) == {
        "trace": b"t",
        "headrace-reason": b"no JSON",
        "headrace-origin": b"headrace.requests/1@3",
        "headrace-key": b"k",
    }
    assert letter.value == b"junk"
