"""The record of a request: what any version of the code may find in the queue."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import SchemaUnknown
from headrace.request import Endpoint, Lane, Request, Sampling, decode_request, encode_request
from headrace.testing.builders import make_request

VERSION_1 = (
    b'{"v":1,"id":"00000000000000000000000000000ab","tenant":"default","model":"test-model","endpoint":"/v1/chat/completions",'
    b'"lane":"standard","prompt_ids":[1,2,3],"sampling":{"max_tokens":8,"temperature":1.0,"top_p":1.0,"top_k":0,"seed":0,"stop":[],'
    b'"ignore_eos":false},"created":1700000000,"stream":false,"attended":false,"include_usage":false}'
)
NEWER: list[dict[str, Any]] = [
    {"n": 2},
    {"min_p": 0.1},
    {"logprobs": 0},
    {"logit_bias": ((3, -100.0), (7, 2.5))},
    {"presence_penalty": 0.5},
    {"frequency_penalty": -0.5},
    {"repetition_penalty": 1.1},
    {"stop_token_ids": (5,)},
    {"min_tokens": 1},
    {"logprobs": 2, "prompt_logprobs": True},
    {"echo": True},
]


def test_a_request_of_before_is_stored_as_before() -> None:
    request = make_request(job_id="00000000000000000000000000000ab")
    assert encode_request(request) == VERSION_1
    assert decode_request(VERSION_1) == request


@pytest.mark.parametrize("fields", NEWER, ids=lambda fields: "+".join(fields))
def test_whatever_older_workers_do_not_know_makes_it_version_2(fields: dict[str, Any]) -> None:
    request = make_request(endpoint=Endpoint.COMPLETIONS, **fields)
    assert request.v == 2
    assert b'"v":2' in encode_request(request)
    assert decode_request(encode_request(request)) == request


@given(
    n=st.integers(1, 16),
    min_p=st.floats(0, 1),
    logprobs=st.none() | st.integers(0, 20),
    bias=st.dictionaries(st.integers(0, 50_000), st.floats(-100, 100), max_size=4),
    penalty=st.floats(-2, 2),
    stop_token_ids=st.lists(st.integers(0, 50_000), max_size=3).map(tuple),
)
def test_every_request_reads_as_it_was_written(n: int, bias: dict[int, float], penalty: float, **rest: Any) -> None:
    request = make_request(lane=Lane.BATCH, n=n, logit_bias=tuple(sorted(bias.items())), presence_penalty=penalty, **rest)
    assert decode_request(encode_request(request)) == request


def test_a_version_to_come_is_refused() -> None:
    with pytest.raises(SchemaUnknown):
        decode_request(VERSION_1.replace(b'"v":1', b'"v":3'))


def test_each_choice_costs_its_prompt_and_its_answer() -> None:
    request = make_request(prompt_ids=range(5), max_tokens=7, n=3)
    assert (request.room, request.cost) == (15, 36)


def test_more_than_16_choices_are_none() -> None:
    with pytest.raises(ValueError, match="less than or equal to 16"):
        Sampling(max_tokens=1, seed=0, n=17)


def test_a_request_says_itself_which_version_it_needs() -> None:
    fields = make_request(n=2).model_dump(exclude={"v"})
    assert Request(**{**fields, "sampling": Sampling(max_tokens=1, seed=0)}).v == 1
