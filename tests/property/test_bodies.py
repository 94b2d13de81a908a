"""Whatever JSON a caller sends, the answer is a draft or an error that names him, never a fault of ours."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, RequestError
from headrace.request import encode_request
from headrace.testing.builders import make_request
from headrace.testing.words import WordPrompter
from headrace.wire.chat import ChatBody
from headrace.wire.completions import CompletionBody
from headrace.wire.json_object import parse_object
from producer_api.admission import read_draft
from producer_api.catalog import Catalog
from producer_api.envelope import error_response

CATALOG = Catalog({"m": WordPrompter})
asyncio.run(CATALOG.load())

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
parts = st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"])}, optional={"text": json_values}), max_size=2)
roles = st.sampled_from(["user", "system", "assistant", "tool"]) | json_values
messages = st.lists(st.fixed_dictionaries({"role": roles, "content": st.text(max_size=20) | parts | json_values}), max_size=3)
prompts = st.text(max_size=20) | st.lists(st.integers(-5, 1_005), max_size=4) | st.lists(st.lists(st.integers(), max_size=2), max_size=2)
names = sorted((ChatBody.model_fields.keys() | CompletionBody.model_fields.keys()) - {"messages", "prompt", "model"})
fields = st.dictionaries(st.sampled_from(names) | st.text(max_size=8), json_values | st.integers(-1, 3) | st.floats(0, 1), max_size=5)
bodies = st.builds(
    lambda base, more: more | base,
    st.fixed_dictionaries({}, optional={"model": st.just("m") | json_values, "messages": messages, "prompt": prompts}),
    fields,
)


@settings(max_examples=400, deadline=None)
@given(bodies, st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/jobs"]))
def test_any_json_makes_a_draft_or_a_named_error(body: dict[str, Any], path: str) -> None:
    try:
        made, _ = read_draft(json.dumps(body).encode(), path, CATALOG.get, seed=1)
    except RequestError as error:
        response = error_response(error)
        assert response.status_code in (400, 404)
        envelope = orjson.loads(bytes(response.body))["error"]
        assert envelope.keys() == {"message", "type", "param", "code"}
        assert len(envelope["message"]) < 500
    else:
        stored = make_request(prompt_ids=made.prompt_ids, **made.sampling.model_dump())
        assert encode_request(stored)


@given(st.binary(max_size=60))
def test_any_bytes_make_an_object_or_a_named_error(raw: bytes) -> None:
    with suppress(InvalidRequest):
        assert isinstance(parse_object(raw), dict)
