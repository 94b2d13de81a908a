"""Every kind of bad input, by its code and line."""

import io
from typing import Any

import orjson
import pytest

from headrace.batch import LineFault
from headrace.errors import ModelNotFound, ModelUnavailable
from headrace.request import Endpoint
from headrace.testing.words import WordPrompter
from headrace.wire.prompter import Prompter
from scheduler.batches.validate import MAX_FAULTS, InputLimits, Validator

LIMITS = InputLimits(bytes=10_000_000, lines=2_000, line_bytes=10_000)


def prompters(model: str) -> Prompter:
    if model not in ("m", "other"):
        raise ModelNotFound(f"The model '{model}' does not exist or is not served here.", param="model")
    return WordPrompter(context_length=200)


def line(custom_id: str = "a", *, url: str = "/v1/chat/completions", method: str = "POST", **body: Any) -> bytes:
    whole = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4} | body
    return orjson.dumps({"custom_id": custom_id, "method": method, "url": url, "body": whole})


def validated(content: bytes, *, endpoint: Endpoint = Endpoint.CHAT, limits: InputLimits = LIMITS) -> Validator:
    validator = Validator(endpoint, prompters, limits)
    for _ in validator.read(io.BytesIO(content), len(content)):
        pass
    return validator


def faults(content: bytes, **options: Any) -> list[LineFault]:
    return validated(content, **options).faults


def test_a_good_file_has_its_lines_and_its_model() -> None:
    content = b"\xef\xbb\xbf" + line("a") + b"\r\n\r\n" + line("b") + b"\n\n" + line("c")
    validator = validated(content)
    assert validator.faults == []
    assert len(validator.index) == 3
    assert validator.model == "m"


@pytest.mark.parametrize(
    ("bad", "code", "param", "says"),
    [
        (b"{", "invalid_json_line", None, "not a JSON object"),
        (b'{"a": }', "invalid_json_line", None, "expected a JSON value (column 7)."),
        (b"[1]", "invalid_json_line", None, "an array"),
        (b'{"custom_id": NaN}', "invalid_json_line", None, "not a JSON object"),
        (b'{"custom_id": "\xff"}', "invalid_json_line", None, "not UTF-8: byte 0xff at column 16"),
        (b'{"custom_id": "\\ud800"}', "invalid_json_line", None, "not a JSON object"),
        (b'{"n": ' + b"[" * 2_000, "invalid_json_line", None, "not a JSON object"),
        (b"\x00", "invalid_json_line", None, "not a JSON object"),
        (b"{}", "missing_required_parameter", "custom_id", "'custom_id' is required"),
        (line(""), "invalid_value", "custom_id", "must not be empty"),
        (line("x" * 600), "invalid_value", "custom_id", "512"),
        (orjson.dumps({"custom_id": 5, "method": "POST", "url": "u", "body": {}}), "invalid_type", "custom_id", "must be a string"),
        (orjson.dumps({"custom_id": "x", "method": "POST", "url": "u", "body": []}), "invalid_type", "body", "must be an object"),
        (orjson.dumps({"custom_id": "x", "method": "POST", "url": "u", "body": {}, "x": 1}), "unknown_parameter", "x", "Unknown"),
        (line("x", method="GET"), "invalid_method", "method", "must be POST, got 'GET'"),
        (line("x", url="/v1/completions"), "mismatched_url", "url", "/v1/chat/completions, got '/v1/completions'"),
        (line("x", stream=True), "stream_not_supported", "body.stream", "must not be true"),
        (line("x", model="nobody"), "model_not_found", "body.model", "does not exist"),
        (line("x", model="other"), "mixed_models", "body.model", "one model"),
        (line("x", temperature=3), "invalid_value", "body.temperature", "at most 2, got 3"),
        (line("x", max_tokens=0), "invalid_value", "body.max_tokens", "at least 1, got 0"),
        (line("x", messages=[]), "invalid_value", "body.messages", "empty"),
        (line("x", n=17), "invalid_value", "body.n", "at most 16, got 17"),
        (line("x", top_logprobs=2), "invalid_value", "body.top_logprobs", "only allowed when 'logprobs' is true"),
        (line("x", logit_bias={"1000": 1}), "invalid_value", "body.logit_bias", "from 0 to 999, got 1000"),
        (line("x", min_tokens=5), "invalid_value", "body.min_tokens", "at most 4, as many tokens as the answer may have, got 5"),
        (line("x", tools=[{"type": "function"}]), "unsupported_parameter", "body.tools", "not supported"),
        (line("x", messages=[{"role": "user", "content": "w " * 300}]), "context_length_exceeded", "body.messages", "200 tokens"),
        (line("x", max_tokens=500), "context_length_exceeded", "body.max_tokens", "200 tokens"),
        (line("first"), "duplicate_custom_id", "custom_id", "'first' is already used in line 1"),
        (line("x", messages=[{"role": "user", "content": "w" * 20_000}]), "line_too_long", None, "longer than 10000 bytes"),
    ],
)
def test_a_bad_line_is_named_with_code_field_and_number(bad: bytes, code: str, param: str | None, says: str) -> None:
    [fault] = faults(line("first") + b"\n\n" + bad + b"\n" + line("last"))
    assert (fault.code, fault.param, fault.line) == (code, param, 3)
    assert says in fault.message


def test_every_bad_line_is_named_up_to_a_thousand() -> None:
    found = faults(b"\n".join([b"{"] * 1_500))
    assert len(found) == MAX_FAULTS
    assert [fault.line for fault in found] == list(range(1, MAX_FAULTS + 1))


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf"])
def test_a_file_without_a_request(content: bytes) -> None:
    [fault] = faults(content)
    assert (fault.code, fault.line) == ("empty_file", None)


def test_too_many_lines_and_too_many_bytes() -> None:
    content = b"\n".join(line(str(i)) for i in range(4))
    [fault] = faults(content, limits=InputLimits(bytes=10_000, lines=3, line_bytes=10_000))
    assert (fault.code, fault.line) == ("too_many_lines", 4)
    assert "more than 3 requests" in fault.message
    assert faults(content, limits=InputLimits(bytes=10_000, lines=4, line_bytes=10_000)) == []
    [fault] = faults(content, limits=InputLimits(bytes=len(content) - 1, lines=4, line_bytes=10_000))
    assert fault.code == "file_too_large"
    assert str(len(content)) in fault.message


def test_completions_are_checked_as_completions() -> None:
    good = orjson.dumps({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "hi"}})
    assert faults(good, endpoint=Endpoint.COMPLETIONS) == []
    [fault] = faults(good.replace(b'"hi"', b"[5000]"), endpoint=Endpoint.COMPLETIONS)
    assert fault.param == "body.prompt"


def test_a_model_that_is_not_there_yet_is_no_fault_of_the_file() -> None:
    def not_yet(model: str) -> Prompter:
        raise ModelUnavailable("not loaded yet")

    validator = Validator(Endpoint.CHAT, not_yet, LIMITS)
    with pytest.raises(ModelUnavailable):
        list(validator.read(io.BytesIO(line()), 100))
