from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.errors import InvalidRequest
from headrace.request import Endpoint, Sampling
from headrace.wire.chat import ChatBody
from headrace.wire.completions import CompletionBody
from headrace.wire.draft import Body, read_fields
from headrace.wire.problems import explain

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> ChatBody:
    return ChatBody.model_validate({"model": "m", "messages": MESSAGES} | fields)


def completion(**fields: Any) -> CompletionBody:
    return CompletionBody.model_validate({"model": "m", "prompt": "hi"} | fields)


def problem(schema: type[ChatBody] | type[CompletionBody], **fields: Any) -> InvalidRequest:
    base = {"model": "m", "messages": MESSAGES} if schema is ChatBody else {"model": "m", "prompt": "hi"}
    with pytest.raises(ValidationError) as caught:
        schema.model_validate(base | fields)
    return explain(caught.value)


def test_defaults() -> None:
    sampling = chat().sampling(max_tokens=9, seed=4)
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (9, 1.0, 1.0, 0)
    assert (sampling.seed, sampling.stop, sampling.ignore_eos) == (4, (), False)


def test_everything_that_is_given_counts() -> None:
    body = chat(temperature=0, top_p=0.5, top_k=40, seed=-(2**63), stop=["a", "b"], ignore_eos=True)
    sampling = body.sampling(max_tokens=9, seed=4)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0, 0.5, 40)
    assert (sampling.seed, sampling.stop, sampling.ignore_eos) == (-(2**63), ("a", "b"), True)


def test_every_way_to_sample_reaches_the_engine() -> None:
    body = chat(
        n=3,
        min_p=0.1,
        logprobs=True,
        top_logprobs=4,
        logit_bias={"9": -100, "5": 1.5},
        presence_penalty=-1,
        frequency_penalty=0.5,
        repetition_penalty=1.1,
        stop_token_ids=[7, 8],
        min_tokens=2,
    )
    assert body.sampling(max_tokens=9, seed=4) == Sampling(
        max_tokens=9,
        seed=4,
        n=3,
        min_p=0.1,
        logprobs=4,
        logit_bias=((5, 1.5), (9, -100.0)),
        presence_penalty=-1.0,
        frequency_penalty=0.5,
        repetition_penalty=1.1,
        stop_token_ids=(7, 8),
        min_tokens=2,
    )


def test_logprobs_of_both_kinds() -> None:
    assert [chat(logprobs=flag).told_logprobs for flag in (None, False, True)] == [None, None, 0]
    assert [completion(logprobs=top).told_logprobs for top in (None, 0, 5)] == [None, 0, 5]
    assert not completion(echo=True).sampling(max_tokens=1, seed=0).prompt_logprobs
    assert completion(echo=True, logprobs=0).sampling(max_tokens=1, seed=0).prompt_logprobs


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (lambda: chat(top_logprobs=3), "top_logprobs", "'top_logprobs' (3) is only allowed when 'logprobs' is true"),
        (lambda: chat(top_logprobs=3, logprobs=False), "top_logprobs", "only allowed when 'logprobs' is true"),
        (lambda: completion(best_of=3, n=2), "best_of", "'best_of' (3) is only supported equal to 'n' (2)"),
        (lambda: completion(best_of=3), "best_of", "'best_of' (3) is only supported equal to 'n' (1)"),
    ],
)
def test_fields_that_do_not_go_together(body: Callable[[], Body], param: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body().check()
    assert caught.value.param == param
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("bias", "said"),
    [
        ([], "must be an object of token ids and biases, got an array."),
        ({"x": 1}, "must have token ids as its keys, got 'x'."),
        ({"-1": 1}, "must have token ids as its keys, got '-1'."),
        ({"01": 1}, "must have token ids as its keys, got '01'."),
        ({"٣": 1}, "must have token ids as its keys, got '٣'."),
        ({"5": "1"}, "must have numbers as its values, but that of 5 is a string."),
        ({"5": True}, "must have numbers as its values, but that of 5 is a boolean."),
        ({"5": 100.5}, "must hold biases from -100 to 100, got 100.5 for 5."),
        ({"5": -101}, "must hold biases from -100 to 100, got -101 for 5."),
        ({str(i): 0 for i in range(1_025)}, "must hold at most 1024 token ids, got 1025."),
    ],
)
def test_biases_that_are_none(bias: Any, said: str) -> None:
    error = problem(ChatBody, logit_bias=bias)
    assert (error.message, error.param) == (f"'logit_bias' {said}", "logit_bias")


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (5, "must be an array of token ids, got an integer."),
        ([1, True], "must be an array of token ids, but element [1] is a boolean."),
        ([1] * 65, "must hold at most 64 token ids, got 65."),
    ],
)
def test_stop_tokens_that_are_none(ids: Any, said: str) -> None:
    error = problem(CompletionBody, stop_token_ids=ids)
    assert (error.message, error.param) == (f"'stop_token_ids' {said}", "stop_token_ids")


def test_explicit_nulls_are_absences() -> None:
    names = ChatBody.model_fields.keys() - {"model", "messages", "metadata", "parallel_tool_calls"}
    assert chat(**dict.fromkeys(names)).sampling(max_tokens=1, seed=0) == chat().sampling(max_tokens=1, seed=0)


def test_the_official_clients_neutral_values_are_accepted() -> None:
    chat(
        n=1,
        logprobs=False,
        top_logprobs=0,
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        response_format={"type": "text"},
        modalities=["text"],
        tools=[],
        tool_choice="auto",
        user="u",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        parallel_tool_calls=True,
        prompt_cache_key="k",
        safety_identifier="s",
        reasoning_effort="low",
        verbosity="low",
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
    )
    completion(best_of=1, echo=False, suffix="", n=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("audio", {"voice": "x"}),
        ("prediction", {"type": "content"}),
        ("web_search_options", {}),
    ],
)
def test_known_but_unsupported_fields_are_named(field: str, value: Any) -> None:
    error = problem(ChatBody, **{field: value})
    assert (error.code, error.param) == ("unsupported_parameter", field)


@pytest.mark.parametrize(("field", "value"), [("suffix", "x"), ("prompt", ["a", "b"])])
def test_unsupported_fields_of_completions(field: str, value: Any) -> None:
    error = problem(CompletionBody, **{field: value})
    assert (error.code, error.param) == ("unsupported_parameter", field)


def test_unknown_fields_are_named_at_any_depth() -> None:
    assert problem(ChatBody, wibble=1).param == "wibble"
    assert problem(ChatBody, stream_options={"wibble": 1}).param == "stream_options.wibble"
    error = problem(ChatBody, messages=[*MESSAGES, {"role": "user", "content": "x", "wibble": 1}])
    assert (error.param, error.code) == ("messages[1].wibble", "unknown_parameter")


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("temperature", -0.1, "at least 0"),
        ("temperature", 2.1, "at most 2"),
        ("top_p", 0, "greater than 0"),
        ("top_p", 1.5, "at most 1"),
        ("max_tokens", 0, "at least 1"),
        ("max_completion_tokens", 0, "at least 1"),
        ("seed", 2**63, "at most 9223372036854775807"),
        ("seed", -(2**63) - 1, "at least -9223372036854775808"),
        ("n", 0, "at least 1"),
        ("n", 17, "at most 16"),
        ("top_logprobs", 21, "at most 20"),
        ("presence_penalty", -2.5, "at least -2"),
        ("frequency_penalty", 2.5, "at most 2"),
        ("repetition_penalty", 0, "greater than 0"),
        ("repetition_penalty", 2.5, "at most 2"),
        ("min_p", 1.5, "at most 1"),
        ("min_tokens", -1, "at least 0"),
    ],
)
def test_ranges_name_field_limit_and_value(field: str, value: Any, limit: str) -> None:
    error = problem(ChatBody, **{field: value})
    assert error.message == f"'{field}' must be {limit}, got {value!r}."
    assert (error.param, error.code) == (field, "invalid_value")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("temperature", "1", "must be a number, got a string"),
        ("temperature", True, "must be a number, got a boolean"),
        ("max_tokens", True, "must be an integer, got a boolean"),
        ("max_tokens", "3", "must be an integer, got a string"),
        ("max_tokens", 1.5, "must be an integer, got a number"),
        ("seed", 2.5, "must be an integer, got a number"),
        ("logprobs", 3, "must be a boolean, got an integer; the number goes into 'top_logprobs'"),
        ("model", 3, "must be a string, got an integer"),
        ("model", None, "must be a string, got null"),
        ("stream", 1, "must be a boolean, got an integer"),
        ("stream_options", [], "must be an object, got an array"),
        ("messages", {}, "must be an array, got an object"),
        ("stop", 5, "must be a string or an array of strings, got an integer"),
        ("stop", ["a", 5], "must be a string or an array of strings, got an array"),
    ],
)
def test_types_are_strict(field: str, value: Any, said: str) -> None:
    error = problem(ChatBody, **{field: value})
    assert error.message == f"'{field}' {said}."
    assert (error.param, error.code) == (field, "invalid_type")


def test_a_seed_beyond_what_the_parser_holds_is_too_large_all_the_same() -> None:
    for seed, limit in ((2.0**64, "at most 9223372036854775807"), (-(2.0**64), "at least -9223372036854775808")):
        assert problem(ChatBody, seed=seed).message == f"'seed' must be {limit}, got {seed:.0f}."
    assert problem(ChatBody, seed=2.0**1000).code == "invalid_value"


def test_what_other_servers_take_is_told_in_our_words() -> None:
    assert problem(ChatBody, top_k=-1).message == "'top_k' must be at least 0, got -1; 0 is off."
    assert problem(CompletionBody, logprobs=True).message == (
        "'logprobs' must be an integer, got a boolean; it is the number of alternatives."
    )


@pytest.mark.parametrize(
    ("endpoint", "field", "hint"),
    [
        (Endpoint.CHAT, "echo", " It is a field of /v1/completions."),
        (Endpoint.CHAT, "best_of", " It is a field of /v1/completions."),
        (Endpoint.COMPLETIONS, "max_completion_tokens", " It is a field of /v1/chat/completions."),
        (Endpoint.CHAT, "min_P", " Did you mean 'min_p'?"),
        (Endpoint.COMPLETIONS, "MAX_TOKENS", " Did you mean 'max_tokens'?"),
        (Endpoint.COMPLETIONS, "wibble", ""),
    ],
)
def test_an_unknown_field_that_is_known_otherwise(endpoint: Endpoint, field: str, hint: str) -> None:
    body = {"model": "m", "messages": MESSAGES} if endpoint is Endpoint.CHAT else {"model": "m", "prompt": "hi"}
    with pytest.raises(InvalidRequest) as caught:
        read_fields({**body, field: 1}, endpoint)
    assert (caught.value.message, caught.value.param) == (f"Unknown parameter: '{field}'.{hint}", field)


def test_no_hint_is_for_a_field_of_a_field() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_fields({"model": "m", "messages": MESSAGES, "stream_options": {"echo": True}}, Endpoint.CHAT)
    assert caught.value.message == "Unknown parameter: 'stream_options.echo'."


def test_stop_strings() -> None:
    assert chat(stop="x").stop == ("x",)
    assert chat(stop=["x"] * 4).stop == ("x",) * 4
    assert "at most 4 strings, got 5" in problem(ChatBody, stop=["x"] * 5).message
    assert "1 to 256 characters, got one of 0" in problem(ChatBody, stop=[""]).message
    assert "1 to 256 characters, got one of 257" in problem(ChatBody, stop="x" * 257).message


def test_metadata_bounds() -> None:
    assert "at most 16 pairs, got 17" in problem(ChatBody, metadata={str(n): "" for n in range(17)}).message
    assert "at most 64 characters, got one of 65" in problem(ChatBody, metadata={"k" * 65: ""}).message
    assert "at most 512 characters, got one of 513" in problem(ChatBody, metadata={"k": "v" * 513}).message


def test_messages() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = chat(messages=[{"role": "developer", "content": "be nice"}, {"role": "user", "content": parts}])
    assert [(message.role, message.content) for message in body.messages] == [("system", "be nice"), ("user", "ab")]
    sent_back: dict[str, Any] = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "tool_calls": None, "audio": None}
    assert chat(messages=[sent_back]).messages[0].content == "x"


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "messages[0].role", "unsupported_parameter"),
        ({"role": "wizard", "content": "x"}, "messages[0].role", "invalid_value"),
        ({"content": "x"}, "messages[0].role", "missing_required_parameter"),
        ({"role": "user"}, "messages[0].content", "missing_required_parameter"),
        ({"role": "user", "content": None}, "messages[0].content", "invalid_type"),
        ({"role": "user", "content": []}, "messages[0].content", "invalid_type"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content", "unsupported_parameter"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content", "invalid_type"),
        ({"role": "user", "content": ["x"]}, "messages[0].content", "invalid_type"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}, "messages[0].content", "unknown_parameter"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[0].tool_calls", "unsupported_parameter"),
        ("x", "messages[0]", "invalid_type"),
    ],
)
def test_bad_messages(message: Any, param: str, code: str) -> None:
    error = problem(ChatBody, messages=[message])
    assert (error.param, error.code) == (param, code)


def test_an_image_part_is_named() -> None:
    error = problem(ChatBody, messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}])
    assert "part [1] of type 'image_url'" in error.message


def test_token_limit() -> None:
    assert chat().token_limit is None
    assert chat(max_tokens=5).token_limit == 5
    assert chat(max_completion_tokens=6).token_limit == 6
    assert chat(max_tokens=7, max_completion_tokens=7).token_limit == 7
    with pytest.raises(InvalidRequest, match=r"'max_tokens' \(5\) and 'max_completion_tokens' \(6\)"):
        _ = chat(max_tokens=5, max_completion_tokens=6).token_limit


@pytest.mark.parametrize(("given", "taken"), [("a", "a"), (["a"], "a"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2))])
def test_shapes_of_one_prompt(given: Any, taken: str | tuple[int, ...]) -> None:
    assert completion(prompt=given).prompt == taken


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], None, 5, [True], [1, "a"], [["a"]], [1.5], {"a": 1}])
def test_prompts_that_are_none(prompt: Any) -> None:
    assert problem(CompletionBody, prompt=prompt).param == "prompt"


def test_messages_with_braces_are_told_as_they_are() -> None:
    assert "'{x}'" in problem(ChatBody, messages=[{"role": "{x}", "content": "x"}]).message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [1] * 10_000}, "messages[0]"),
        ({"messages": [{}] * 10_000}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "hi"} | {f"x{i}": i for i in range(10_000)}]}, "messages[0].x0"),
        ({f"x{i}": i for i in range(10_000)}, "x0"),
        ({"metadata": {f"x{i}": i for i in range(10_000)}}, "metadata"),
        ({"stream_options": {f"x{i}": i for i in range(10_000)}}, "stream_options.x0"),
        ({"stop": [1] * 10_000}, "stop"),
        ({"messages": [{"role": "user", "content": [1] * 10_000}]}, "messages[0].content"),
    ],
)
def test_ten_thousand_faults_are_not_collected_for_the_sake_of_the_first(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ValidationError) as caught:
        chat(**fields)
    assert caught.value.error_count() <= len(ChatBody.model_fields)
    assert explain(caught.value).param == param
    assert len(explain(caught.value).message) < 200
