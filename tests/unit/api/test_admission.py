from typing import Any

import orjson
import pytest
from starlette.datastructures import Headers

from headrace.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound, ModelUnavailable
from headrace.request import Endpoint
from headrace.testing.words import WordPrompter
from headrace.wire.draft import Draft
from producer_api.admission import idempotency_key, read_draft, time_to_live_ms
from producer_api.catalog import Catalog

CHAT, COMPLETIONS, JOBS = "/v1/chat/completions", "/v1/completions", "/v1/jobs"
CONTEXT = 16


@pytest.fixture
async def catalog() -> Catalog:
    catalog = Catalog({"m": lambda: WordPrompter(context_length=CONTEXT, vocab_size=100)})
    await catalog.load()
    return catalog


def drafted(catalog: Catalog, path: str, **fields: Any) -> Draft:
    return read_draft(orjson.dumps({"model": "m"} | fields), path, catalog.get, seed=7)[0]


def test_prompt_fills_what_it_needs_and_the_answer_the_rest(catalog: Catalog) -> None:
    made = drafted(catalog, COMPLETIONS, prompt="a b c")
    assert len(made.prompt_ids) == 3
    assert made.sampling.max_tokens == CONTEXT - 3
    assert made.sampling.seed == 7


def test_the_context_is_exactly_enough_or_exceeded_by_one(catalog: Catalog) -> None:
    assert drafted(catalog, COMPLETIONS, prompt="a b c", max_tokens=13).sampling.max_tokens == 13
    with pytest.raises(ContextLengthExceeded, match="context is 16 tokens, but this request needs 17: 3 in 'prompt' and 14") as caught:
        drafted(catalog, COMPLETIONS, prompt="a b c", max_tokens=14)
    assert caught.value.param == "max_tokens"


def test_a_prompt_that_leaves_no_room_is_named(catalog: Catalog) -> None:
    assert drafted(catalog, COMPLETIONS, prompt=[1] * 15).sampling.max_tokens == 1
    with pytest.raises(ContextLengthExceeded, match="needs 17: 16 in 'prompt' and 1") as caught:
        drafted(catalog, COMPLETIONS, prompt=[1] * 16)
    assert caught.value.param == "prompt"
    with pytest.raises(ContextLengthExceeded) as caught:
        drafted(catalog, CHAT, messages=[{"role": "user", "content": "x " * 20}], max_tokens=1)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("token", [-1, 100])
def test_token_ids_must_be_in_the_vocabulary(catalog: Catalog, token: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"'prompt\[1\]' must be a token id from 0 to 99, got {token}"):
        drafted(catalog, COMPLETIONS, prompt=[0, token])


@pytest.mark.parametrize(("field", "value"), [("logit_bias", {"99": 1, "100": 1}), ("stop_token_ids", [99, 100])])
def test_other_token_ids_must_be_in_it_too(catalog: Catalog, field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"'{field}' must name token ids from 0 to 99, got 100") as caught:
        drafted(catalog, COMPLETIONS, prompt="a", **{field: value})
    assert caught.value.param == field


def test_the_least_must_fit_into_the_most(catalog: Catalog) -> None:
    assert drafted(catalog, COMPLETIONS, prompt="a b c", min_tokens=13).sampling.min_tokens == 13
    with pytest.raises(InvalidRequest, match="'min_tokens' must be at most 13, as many tokens as the answer may have, got 14"):
        drafted(catalog, COMPLETIONS, prompt="a b c", min_tokens=14)


def test_text_without_a_token_is_no_prompt(catalog: Catalog) -> None:
    with pytest.raises(InvalidRequest, match="'prompt' must not be empty"):
        drafted(catalog, COMPLETIONS, prompt="   ")


def test_a_job_is_what_its_body_says(catalog: Catalog) -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert drafted(catalog, JOBS, messages=messages).endpoint is Endpoint.CHAT
    assert drafted(catalog, JOBS, prompt="hi").endpoint is Endpoint.COMPLETIONS
    for both_or_none in ({"messages": messages, "prompt": "hi"}, {}):
        with pytest.raises(InvalidRequest, match="either 'messages'"):
            drafted(catalog, JOBS, **both_or_none)


def test_stream_options_need_a_stream_but_a_job_always_has_one(catalog: Catalog) -> None:
    with pytest.raises(InvalidRequest, match="only allowed when 'stream' is true"):
        drafted(catalog, COMPLETIONS, prompt="hi", stream_options={"include_usage": True})
    job = drafted(catalog, JOBS, prompt="hi", stream_options={"include_usage": True})
    assert job.include_usage
    assert not job.stream


def test_models_are_found_loaded_or_refused(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound):
        drafted(catalog, COMPLETIONS, model="other", prompt="hi")
    with pytest.raises(ModelUnavailable):
        drafted(Catalog({"m": WordPrompter}), COMPLETIONS, prompt="hi")


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "tab\t"])
def test_bad_idempotency_keys(key: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 255 visible ASCII"):
        idempotency_key(Headers({"idempotency-key": key}))


def test_idempotency_keys() -> None:
    assert idempotency_key(Headers({})) is None
    assert idempotency_key(Headers({"Idempotency-Key": "x" * 255})) == "x" * 255


@pytest.mark.parametrize(("given", "ms"), [(None, 60_000), ("1", 1_000), ("2.5", 2_500), ("60", 60_000)])
def test_request_timeout(given: str | None, ms: int) -> None:
    assert time_to_live_ms(Headers({} if given is None else {"x-request-timeout": given}), 60) == ms


@pytest.mark.parametrize("given", ["", "0", "0.5", "61", "-5", "1e1", "nan", "inf", "five", " 5"])
def test_bad_request_timeouts(given: str) -> None:
    with pytest.raises(InvalidRequest, match="must be 1 to 60 seconds"):
        time_to_live_ms(Headers({"x-request-timeout": given}), 60)
