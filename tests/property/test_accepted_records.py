"""What the API writes to the log is what the pump reads."""

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given

from headrace.errors import SchemaUnknown
from headrace.kafka.record import decode_accepted, encode_accepted
from headrace.ports import Submission
from headrace.request import Endpoint, Lane, Request, Sampling, encode_request
from headrace.testing.builders import make_request, make_submission

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
FLOATS = st.floats(-2, 2, allow_nan=False)

SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(1, 10**6),
    temperature=FLOATS,
    seed=st.integers(0, 2**63 - 1),
    stop=st.tuples(TEXT),
    n=st.integers(1, 16),
    logprobs=st.none() | st.integers(0, 20),
    logit_bias=st.lists(st.tuples(st.integers(0, 10**6), FLOATS), max_size=3).map(tuple),
    stop_token_ids=st.lists(st.integers(0, 10**6), max_size=3).map(tuple),
)
REQUESTS = st.builds(
    Request,
    id=st.just("0" * 31),
    tenant=TEXT,
    model=TEXT,
    endpoint=st.sampled_from(Endpoint),
    lane=st.sampled_from(Lane),
    prompt_ids=st.lists(st.integers(0, 2**31), max_size=20).map(tuple),
    sampling=SAMPLINGS,
    created=st.integers(0, 2**40),
    stream=st.booleans(),
    attended=st.booleans(),
    include_usage=st.booleans(),
    echo=st.booleans(),
    return_token_ids=st.booleans(),
)
SUBMISSIONS = st.builds(Submission, request=REQUESTS, idempotency_key=st.none() | TEXT, body_hash=TEXT, ttl_ms=st.integers(1, 2**40))


@given(SUBMISSIONS)
def test_there_and_back(submission: Submission) -> None:
    raw = encode_accepted(submission)
    assert decode_accepted(raw) == submission
    assert encode_accepted(decode_accepted(raw)) == raw


@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else(raw: bytes) -> None:
    with pytest.raises(SchemaUnknown):
        decode_accepted(raw)


def test_the_request_is_as_the_store_has_it() -> None:
    request = make_request(max_tokens=5)
    assert encode_request(request) in encode_accepted(make_submission(request))


@pytest.mark.parametrize(
    "change",
    [{"v": 2}, {"ttl_ms": 0}, {"ttl_ms": "1"}, {"mood": "fine"}, {"request": {}}, {"request": None}],
    ids=["another version", "no time to live", "text for a number", "an unknown field", "an empty request", "no request"],
)
def test_what_this_version_does_not_know_is_left_alone(change: dict[str, object]) -> None:
    record = orjson.loads(encode_accepted(make_submission(make_request())))
    with pytest.raises(SchemaUnknown, match="cannot read an accepted request"):
        decode_accepted(orjson.dumps({**record, **change}))


def test_a_request_of_a_later_version_is_left_alone() -> None:
    record = orjson.loads(encode_accepted(make_submission(make_request())))
    record["request"]["v"] = 3
    with pytest.raises(SchemaUnknown):
        decode_accepted(orjson.dumps(record))
