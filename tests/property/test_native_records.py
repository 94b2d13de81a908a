"""Whatever stands in a record of the requests topic, it gets a verdict: a request, a refusal that can be told, or a dead letter."""

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ModelNotFound, RequestError
from headrace.ids import is_job_id, shard_of
from headrace.kafka.log_record import LogRecord
from headrace.kafka.native import DeadLetter, read_native, submission_of
from headrace.kafka.result import dead_letter, refused_record
from headrace.kafka.window import Partition
from headrace.request import decode_request, encode_request
from headrace.testing.words import WordPrompter
from headrace.wire.native_key import client_id_of
from headrace.wire.prompter import Prompter

KEYS = {"k1": "alice", "k2": "bob"}
SHARDS = 4

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
good_body = st.just({"model": "m", "messages": [{"role": "user", "content": "hello there"}]})
bodies = good_body | json_values | st.dictionaries(st.sampled_from(["model", "messages", "prompt", "max_tokens", "n", "x"]), json_values)
values = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "b" * 255, "", "b" * 256, "with space", "ä", "\x00"]) | json_values,
        "endpoint": st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/nothing"]) | json_values,
        "body": bodies,
        "more": json_values,
    },
)


def encoded(value: Any) -> bytes:
    """Some of it is no JSON of ours: NaN, integers beyond 64 bits."""
    import json

    return json.dumps(value).encode("utf-8", "surrogatepass")


raw = st.none() | st.binary(max_size=80) | values.map(encoded)
headers = st.lists(
    st.tuples(
        st.sampled_from(["authorization", "Authorization", "priority", "deadline", "tokens", "traceparent"]) | st.text(max_size=5),
        st.none()
        | st.binary(max_size=12)
        | st.sampled_from([b"Bearer k1", b"bearer k2", b"Bearer nobody", b"interactive", b"9" * 15, b"1", b"true", b"false"]),
    ),
    max_size=5,
)
records = st.builds(
    LogRecord,
    partition=st.builds(Partition, st.just("headrace.requests"), st.integers(0, 5)),
    offset=st.integers(0, 2**63 - 1),
    timestamp_ms=st.integers(-(2**63), 2**63 - 1),
    key=st.none() | st.binary(max_size=8),
    value=raw,
    headers=headers.map(tuple),
)


def prompters(model: str) -> Prompter:
    if model != "m":
        raise ModelNotFound.among(model, ["m"])
    return WordPrompter()


@settings(max_examples=800, deadline=None)
@given(records, st.booleans())
def test_any_record_gets_a_verdict(record: LogRecord, with_keys: bool) -> None:
    try:
        native = read_native(record, KEYS.get if with_keys else None, SHARDS)
    except DeadLetter as error:
        reason = str(error)
        letter = dead_letter(record, reason)
        assert 0 < len(reason) < 700
        assert letter.value == (record.value or b"")
        assert all(name.lower() != "authorization" for name, _ in letter.headers)
        assert "k1" not in reason
        return
    assert is_job_id(native.job_id)
    assert shard_of(native.job_id) < SHARDS
    assert native.tenant in (KEYS.values() if with_keys else {"default"})
    try:
        submission = submission_of(native, prompters, now_ms=1_000, longest_ms=5_000)
        told = native.tells_tokens
    except RequestError as error:
        refused = orjson.loads(refused_record(native, error).value)
        assert refused["id"] == native.client_id
        assert refused["state"] == "refused"
        assert refused["error"].keys() == {"message", "type", "param", "code"}
        return
    assert told in (True, False)
    assert decode_request(encode_request(submission.request)) == submission.request
    assert client_id_of(submission.idempotency_key or "") == native.client_id
    assert 1 <= submission.ttl_ms <= 5_000
    again = submission_of(read_native(record, KEYS.get if with_keys else None, SHARDS), prompters, now_ms=1_000, longest_ms=5_000)
    assert again == submission
