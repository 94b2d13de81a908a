from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import RequestError
from producer_api.upload_form import Fields, UploadForm, display_name

BOUNDARY = b"sep--x"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY.decode()}"


def part(name: str, value: bytes, *, filename: str | None = None, headers: bytes = b"") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'.encode()
    if filename is not None:
        disposition += f'; filename="{filename}"'.encode()
    return b"--" + BOUNDARY + b"\r\n" + disposition + b"\r\n" + headers + b"\r\n" + value + b"\r\n"


def body(*parts: bytes, end: bytes = b"--" + BOUNDARY + b"--\r\n") -> bytes:
    return b"".join(parts) + end


FILE = part("file", b"{}\n", filename="in.jsonl", headers=b"Content-Type: application/jsonl\r\n")
PURPOSE = part("purpose", b"batch")
ANCHOR, SECONDS = part("expires_after[anchor]", b"created_at"), part("expires_after[seconds]", b"3600")


class Read(NamedTuple):
    file: bytes
    fields: Fields


def read(chunks: Sequence[bytes]) -> Read:
    form = UploadForm(CONTENT_TYPE)
    return Read(b"".join([form.feed(chunk) for chunk in chunks]), form.finish())


def outcome(chunks: Sequence[bytes]) -> object:
    """What a body comes to: its file and fields, or its one error."""
    try:
        return read(chunks)
    except RequestError as error:
        return error.status, error.code, error.param, error.message


def cut(whole: bytes, places: Sequence[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(whole) + 1) for place in places), len(whole)]
    return [whole[start:end] for start, end in pairwise(marks)]


# Bytes that look like the beginning of a boundary, or like most of one.
NEARLY = st.sampled_from([b"\r", b"\n", b"-", b"\r\n", b"--", b"\r\n--", b"\r\n--sep", b"\r\n--sep--", b"\r\n--sep--y", b"sep--x", b"\xff"])
CONTENT = st.lists(NEARLY | st.binary(max_size=8), max_size=12).map(b"".join).filter(lambda content: b"\r\n--" + BOUNDARY not in content)
CUTS = st.lists(st.integers(0, 2_000), max_size=40)


@given(content=CONTENT, order=st.permutations(range(4)), cuts=CUTS)
def test_a_form_is_the_same_however_it_is_cut(content: bytes, order: list[int], cuts: list[int]) -> None:
    parts = [part("file", content, filename="a.jsonl"), PURPOSE, ANCHOR, SECONDS]
    whole = body(*(parts[i] for i in order))
    assert read(cut(whole, cuts)) == Read(content, Fields("a.jsonl", 3_600))
    assert read([whole[i : i + 1] for i in range(len(whole))]) == Read(content, Fields("a.jsonl", 3_600))


PIECES = st.sampled_from(
    [
        FILE,
        PURPOSE,
        ANCHOR,
        SECONDS,
        part("purpose", b"assistants"),
        part("purpose", b"b" * 2_000),
        part("n", b"1"),
        part("file", b"x"),
        part("file", b"x", filename="a", headers=b"A: b\r\n" * 9),
        part("file", b"x", filename="a", headers=b"A: " + b"b" * 5_000 + b"\r\n"),
        b"--sep--x\r\n\r\n",
        b"--sep--x--",
        b"--sep--x \r\n",
        b"junk\r\n",
        b": \r\n\r\n",
        b"Content-Disposition: form-data\r\n\r\n",
    ]
)


@given(pieces=st.lists(PIECES, max_size=6), keep=st.integers(0, 20_000), cuts=CUTS)
def test_a_wrong_form_is_wrong_the_same_way_however_it_is_cut(pieces: list[bytes], keep: int, cuts: list[int]) -> None:
    whole = body(*pieces)[:keep]
    assert outcome(cut(whole, cuts)) == outcome([whole])


@pytest.mark.parametrize(
    ("whole", "code", "param"),
    [
        (b"", "invalid_multipart", None),
        (b"hello", "invalid_multipart", None),
        (body(FILE, PURPOSE, end=b""), "invalid_multipart", None),
        (body(FILE, PURPOSE, end=b"--" + BOUNDARY + b"-"), "invalid_multipart", None),
        (body(FILE, PURPOSE).replace(BOUNDARY, b"other"), "invalid_multipart", None),
        (body(), "missing_required_parameter", "file"),
        (body(PURPOSE), "missing_required_parameter", "file"),
        (body(FILE), "missing_required_parameter", "purpose"),
        (body(FILE, PURPOSE, ANCHOR), "missing_required_parameter", "expires_after[seconds]"),
        (body(FILE, PURPOSE, SECONDS), "missing_required_parameter", "expires_after[anchor]"),
        (body(PURPOSE, PURPOSE, FILE), "invalid_value", "purpose"),
        (body(FILE, PURPOSE, FILE), "invalid_value", "file"),
        (body(FILE, PURPOSE, part("files", b"", filename="b")), "unknown_parameter", "files"),
        (body(FILE, PURPOSE, part("expires_after", b"3600")), "unknown_parameter", "expires_after"),
        (body(FILE, PURPOSE, *(part(str(n), b"") for n in range(100))), "unknown_parameter", "0"),
        (body(FILE, part("purpose", b"fine-tune")), "invalid_value", "purpose"),
        (body(FILE, part("purpose", b"")), "invalid_value", "purpose"),
        (body(FILE, part("purpose", b"\xff\xfe")), "invalid_value", "purpose"),
        (body(FILE, part("purpose", b"b" * 1_025)), "invalid_value", "purpose"),
        (body(FILE, PURPOSE, part("expires_after[anchor]", b"now"), SECONDS), "invalid_value", "expires_after[anchor]"),
        (body(FILE, PURPOSE, ANCHOR, part("expires_after[seconds]", b"3599")), "invalid_value", "expires_after[seconds]"),
        (body(FILE, PURPOSE, ANCHOR, part("expires_after[seconds]", b"2592001")), "invalid_value", "expires_after[seconds]"),
        (body(FILE, PURPOSE, ANCHOR, part("expires_after[seconds]", b"-3600")), "invalid_value", "expires_after[seconds]"),
        (body(FILE, PURPOSE, ANCHOR, part("expires_after[seconds]", b"3600.0")), "invalid_value", "expires_after[seconds]"),
        (body(FILE, PURPOSE, ANCHOR, part("expires_after[seconds]", "٣٦٠٠".encode())), "invalid_value", "expires_after[seconds]"),
        (body(FILE, PURPOSE, ANCHOR, part("expires_after[seconds]", b"9" * 1_000)), "invalid_value", "expires_after[seconds]"),
        (body(part("file", b"x"), PURPOSE), "invalid_value", "file"),
        (body(part("file", b"x", filename=""), PURPOSE), "invalid_value", "file"),
        (body(part("file", b"x", filename="../.."), PURPOSE), "invalid_value", "file"),
        (body(part("file", b"eA==", filename="a", headers=b"Content-Transfer-Encoding: base64\r\n"), PURPOSE), "invalid_value", None),
        (body(part("file", b"x", filename="a", headers=b"X: y\r\n" * 8), PURPOSE), "invalid_multipart", None),
        (body(part("file", b"x", filename="a", headers=b"X: " + b"y" * 4_096 + b"\r\n"), PURPOSE), "invalid_multipart", None),
        (body(part("file", b"x", filename="a", headers=b"X" * 100_000), PURPOSE), "invalid_multipart", None),
        (body(part("file", b"x", filename="a", headers=b"no colon\r\n"), PURPOSE), "invalid_multipart", None),
        (b"--sep--x\r\nX: y\r\n\r\nvalue\r\n" + body(FILE, PURPOSE), "invalid_multipart", None),
        (b'--sep--x\r\nContent-Disposition: attachment; name="file"\r\n\r\nx\r\n' + body(PURPOSE), "invalid_multipart", None),
    ],
)
def test_bad_forms(whole: bytes, code: str, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        read([whole])
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
    assert 10 < len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("content_type", "status", "code"),
    [
        ("", 415, "unsupported_media_type"),
        ("application/json", 415, "unsupported_media_type"),
        ("multipart/mixed; boundary=x", 415, "unsupported_media_type"),
        ("multipart/form-data", 400, "invalid_multipart"),
        ("multipart/form-data; boundary=", 400, "invalid_multipart"),
        ("multipart/form-data; boundary=" + "x" * 71, 400, "invalid_multipart"),
    ],
)
def test_bad_content_types(content_type: str, status: int, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        UploadForm(content_type)
    assert (caught.value.status, caught.value.code) == (status, code)


def test_content_types_are_read_as_they_may_be_written() -> None:
    form = UploadForm('Multipart/Form-Data; charset=utf-8; Boundary="sep--x"')
    assert form.feed(b"\r\n" + body(FILE, PURPOSE) + b"epilogue") == b"{}\n"
    assert form.finish() == Fields("in.jsonl", None)


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [
        ("in.jsonl", "in.jsonl"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\in.jsonl", "in.jsonl"),
        ("C:\\data\\in.jsonl", "in.jsonl"),
        (" größe 大.jsonl ", "größe 大.jsonl"),
        ("a\r\nSet-Cookie: b\x00\x7f.jsonl", "aSet-Cookie: b.jsonl"),
        ("lnosj.\u202egpj", "lnosj.gpj"),
        ("x" * 300, "x" * 255),
        (".hidden", ".hidden"),
    ],
)
def test_names_are_for_showing(given_name: str, shown: str) -> None:
    assert display_name(given_name) == shown
