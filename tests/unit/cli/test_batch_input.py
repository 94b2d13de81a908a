import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cli import batch_input
from headrace.cli.batch_input import Fill, normalised, survey, upload
from headrace.errors import HeadraceError
from headrace.request import Endpoint

BOM = b"\xef\xbb\xbf"
FILL = Fill(endpoint=Endpoint.CHAT, model="m", max_tokens=5)
BLANK = st.sampled_from([b"", b" ", b"\t ", b"\r"])
TEXT = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
BODIES = st.dictionaries(
    st.sampled_from(["model", "max_tokens", "max_completion_tokens", "temperature", "messages"]) | TEXT, VALUES, max_size=4
)
REQUESTS = st.fixed_dictionaries(
    {}, optional={"custom_id": VALUES, "method": VALUES, "url": VALUES, "body": BODIES | VALUES, "more": VALUES}
)
BROKEN = st.sampled_from([b'{"body": {"model"', b"{'single': 1}", b"[1, 2]", b'"text"', b"\xff\xfe{}", b'{"custom_id": NaN}'])


def lines_of(file: bytes, jsonl: bool = True, fill: Fill = FILL) -> list[bytes]:
    out = b"".join(normalised(io.BytesIO(file), jsonl, fill))
    return out.removesuffix(b"\n").split(b"\n") if out else []


@given(
    st.lists(REQUESTS, min_size=1), st.lists(BLANK | BROKEN), st.sampled_from([b"", BOM]), st.sampled_from([b"\n", b"\r\n"]), st.randoms()
)
def test_each_line_keeps_its_number_and_what_it_says(
    requests: list[dict[str, Any]], others: list[bytes], bom: bytes, end: bytes, order: Any
) -> None:
    lines: list[dict[str, Any] | bytes] = [*requests, *others]
    order.shuffle(lines)
    file = bom + end.join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines) + end
    made = lines_of(file)
    assert len(made) == len(lines)
    for number, (given_, out) in enumerate(zip(lines, made, strict=True), 1):
        if isinstance(given_, bytes):
            assert out == given_.strip(), "what is no request goes on as it is"
            continue
        request = json.loads(out)
        expected = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", **given_}
        if isinstance(body := given_.get("body"), dict):
            limited = "max_tokens" in body or "max_completion_tokens" in body
            expected["body"] = {"model": "m", **({} if limited else {"max_tokens": 5}), **body}
        assert request == expected


@given(st.lists(TEXT), st.sampled_from([b"", BOM]), st.sampled_from([b"\n", b"\r\n"]), st.sampled_from(list(Endpoint)))
def test_every_line_of_text_is_a_prompt(prompts: list[str], bom: bytes, end: bytes, endpoint: Endpoint) -> None:
    file = bom + b"".join(prompt.encode() + end for prompt in prompts)
    made = lines_of(file, False, Fill(endpoint=endpoint, model="m", temperature=0.0))
    assert len(made) == len(prompts)
    for number, (prompt, out) in enumerate(zip(prompts, made, strict=True), 1):
        if not prompt.encode().strip():
            assert out == b""
            continue
        asked = {"messages": [{"role": "user", "content": prompt}]} if endpoint is Endpoint.CHAT else {"prompt": prompt}
        body = {"model": "m", "temperature": 0.0, **asked}
        assert json.loads(out) == {"custom_id": f"line-{number}", "method": "POST", "url": endpoint, "body": body}


def test_text_that_is_no_utf8_is_left_to_the_server() -> None:
    assert lines_of(b"fine\ncaf\xe9\n", False)[1] == b"caf\xe9"


def test_a_complete_line_is_not_touched() -> None:
    line = b'{ "url":"/v1/chat/completions", "custom_id":"a","method":"POST","body":{"model":"x","max_tokens":1} }'
    assert lines_of(line) == [line]


@given(st.lists(TEXT.map(str.encode) | REQUESTS.map(lambda request: json.dumps(request).encode())), st.integers(1, 100))
def test_what_is_uploaded_is_what_was_made(lines: list[bytes], size: int) -> None:
    file = b"\n".join(lines)
    with upload(io.BytesIO(file), True, FILL) as made:
        read = b"".join(iter(lambda: made.read(size), b""))
    assert read == b"".join(normalised(io.BytesIO(file), True, FILL))


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("length", [31, 32, 33, 64, 65, 200])
def test_a_line_too_long_to_be_looked_into_is_one_line_still(monkeypatch: pytest.MonkeyPatch, length: int, end: bytes) -> None:
    monkeypatch.setattr(batch_input, "LONGEST_LINE", 32)
    long = b"x" * length
    made = lines_of(b"{}\n" + long + b"\n{}" + end)
    assert (len(made), made[1]) == (3, long)
    assert json.loads(made[2])["custom_id"] == "line-3"


def test_no_more_of_a_file_is_held_than_a_line() -> None:
    class Endless(io.RawIOBase):
        read_so_far = 0

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return True

        def seek(self, offset: int, whence: int = 0) -> int:
            return 0

        def tell(self) -> int:
            return 0

        def readinto(self, buffer: Any) -> int:
            line = b'{"body": {}}\n' * (len(buffer) // 13)
            buffer[: len(line)] = line
            self.read_so_far += len(line)
            return len(line)

    source = Endless()
    with upload(io.BufferedReader(source), True, FILL) as made:
        assert len(made.read(1 << 20)) == 1 << 20
        assert source.read_so_far < 2 << 20


@pytest.mark.parametrize(
    ("file", "jsonl", "endpoint"),
    [
        (b"\n \n  What?\n", False, None),
        (BOM + b'\r\n {"custom_id": "a", "url": "/v1/completions"}', True, Endpoint.COMPLETIONS),
        (b'{"broken": \nplain', True, None),
        (b'{"url": "/v1/embeddings"}', True, None),
        (b'{"url": ["/v1/completions"]}', True, None),
        (b'["no object"]', False, None),
    ],
)
def test_the_first_line_tells_what_the_file_is(file: bytes, jsonl: bool, endpoint: Endpoint | None) -> None:
    surveyed = survey(io.BytesIO(file))
    assert (surveyed.jsonl, surveyed.endpoint) == (jsonl, endpoint)


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_only_equal_files_have_equal_surveys(one: bytes, other: bytes) -> None:
    first, second = survey(io.BytesIO(b"x" + one)), survey(io.BytesIO(b"x" + other))
    assert (first.sha256 == second.sha256) == (one == other)


@pytest.mark.parametrize("file", [b"", b"\n \r\n\t\n", BOM, BOM + b"\n"])
def test_an_input_without_a_request_is_refused(file: bytes) -> None:
    with pytest.raises(HeadraceError, match="the input is empty"):
        survey(io.BytesIO(file))
