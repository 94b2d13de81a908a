"""Every bad request about a file or a batch gets one clear error in the envelope, and leaves nothing behind."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.file import FileRecord, Purpose
from headrace.ids import new_file_id
from producer_api.archive import Archive

FILES, BATCHES = "/v1/files", "/v1/batches"
NO_FILE, NO_BATCH = f"file-{'0' * 32}", f"batch_{'0' * 32}"
FORM = "multipart/form-data; boundary=b"


def part(name: str, value: bytes, more: bytes = b"") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name.encode(), more, value)


FILE, PURPOSE, END = part("file", b"{}", b'; filename="in.jsonl"'), part("purpose", b"batch"), b"--b--\r\n"
ANCHOR, SECONDS = part("expires_after[anchor]", b"created_at"), part("expires_after[seconds]", b"3600")
GOOD = FILE + PURPOSE + END

BAD_UPLOADS = [
    # body, headers → status, code, param
    (b"", {}, 400, "invalid_multipart", None),
    (b"{}", {}, 400, "invalid_multipart", None),
    (FILE + PURPOSE, {}, 400, "invalid_multipart", None),
    (GOOD.replace(b"--b", b"--c"), {}, 400, "invalid_multipart", None),
    (part("file", b"x", b'; filename="f"\r\n' + b"\r\n".join([b"A: b"] * 20)) + PURPOSE + END, {}, 400, "invalid_multipart", None),
    (part("file", b"x", b'; filename="' + b"f" * 1_000_000 + b'"') + PURPOSE + END, {}, 400, "invalid_multipart", None),
    (END, {}, 400, "missing_required_parameter", "file"),
    (PURPOSE + END, {}, 400, "missing_required_parameter", "file"),
    (FILE + END, {}, 400, "missing_required_parameter", "purpose"),
    (FILE + FILE + PURPOSE + END, {}, 400, "invalid_value", "file"),
    (FILE + PURPOSE + PURPOSE + END, {}, 400, "invalid_value", "purpose"),
    (part("file", b"x") + PURPOSE + END, {}, 400, "invalid_value", "file"),
    (part("file", b"x", b'; filename="/"') + PURPOSE + END, {}, 400, "invalid_value", "file"),
    (FILE + part("purpose", b"fine-tune") + END, {}, 400, "invalid_value", "purpose"),
    (FILE + part("purpose", b"batch_output") + END, {}, 400, "invalid_value", "purpose"),
    (FILE + part("purpose", b"b" * 500_000) + END, {}, 400, "invalid_value", "purpose"),
    (FILE + PURPOSE + part("wibble", b"1") + END, {}, 400, "unknown_parameter", "wibble"),
    (FILE + PURPOSE + b"".join(part(str(n), b"1") for n in range(1_000)) + END, {}, 400, "unknown_parameter", "0"),
    (FILE + PURPOSE + ANCHOR + END, {}, 400, "missing_required_parameter", "expires_after[seconds]"),
    (FILE + PURPOSE + SECONDS + END, {}, 400, "missing_required_parameter", "expires_after[anchor]"),
    (FILE + PURPOSE + part("expires_after[anchor]", b"now") + SECONDS + END, {}, 400, "invalid_value", "expires_after[anchor]"),
    (FILE + PURPOSE + ANCHOR + part("expires_after[seconds]", b"60") + END, {}, 400, "invalid_value", "expires_after[seconds]"),
    (FILE + PURPOSE + ANCHOR + part("expires_after[seconds]", b"soon") + END, {}, 400, "invalid_value", "expires_after[seconds]"),
    (GOOD + bytes(300_000), {}, 413, "body_too_large", None),
    (GOOD, {"content-type": "multipart/form-data"}, 400, "invalid_multipart", None),
    (GOOD, {"content-type": "multipart/mixed; boundary=b"}, 415, "unsupported_media_type", None),
    (GOOD, {"content-type": "application/json"}, 415, "unsupported_media_type", None),
    (GOOD, {"content-encoding": "gzip"}, 415, "unsupported_media_type", None),
    (GOOD, {"sec-fetch-site": "cross-site"}, 403, "cross_site_request", None),
    (GOOD, {"idempotency-key": "with space"}, 400, "invalid_value", "Idempotency-Key"),
    (GOOD, {"idempotency-key": "x" * 256}, 400, "invalid_value", "Idempotency-Key"),
]


@pytest.mark.parametrize(("body", "headers", "status", "code", "param"), BAD_UPLOADS)
@pytest.mark.parametrize("connection", ["keep-alive", "close"])
async def test_bad_uploads(
    http: httpx.AsyncClient,
    files_dir: Path,
    body: bytes,
    headers: dict[str, str],
    status: int,
    code: str,
    param: str | None,
    connection: str,
) -> None:
    """Heard by every client, whether the server goes on reading or not."""
    response = await http.post(FILES, content=body, headers={"content-type": FORM, "connection": connection} | headers)
    refused(response, status, code, param)
    assert (os.listdir(files_dir / "blobs"), os.listdir(files_dir / "scratch")) == ([], [])
    assert (await http.get(FILES)).json()["data"] == []


async def test_a_good_upload_passes(http: httpx.AsyncClient) -> None:
    """What the bad ones are made of is not bad by itself."""
    for body in (GOOD, FILE + PURPOSE + ANCHOR + SECONDS + END + b"epilogue"):
        response = await http.post(FILES, content=body, headers={"content-type": FORM, "sec-fetch-site": "same-origin"})
        assert response.status_code == 200, response.text


BAD_BATCHES: list[tuple[dict[str, Any], int, str, str | None]] = [
    # changed fields (... takes one away) → status, code, param
    ({"input_file_id": ...}, 400, "missing_required_parameter", "input_file_id"),
    ({"endpoint": ...}, 400, "missing_required_parameter", "endpoint"),
    ({"completion_window": ...}, 400, "missing_required_parameter", "completion_window"),
    ({"input_file_id": 7}, 400, "invalid_type", "input_file_id"),
    ({"input_file_id": None}, 400, "missing_required_parameter", "input_file_id"),
    ({"input_file_id": ""}, 404, "file_not_found", "input_file_id"),
    ({"input_file_id": "../../etc/passwd"}, 404, "file_not_found", "input_file_id"),
    ({"input_file_id": NO_BATCH}, 404, "file_not_found", "input_file_id"),
    ({"input_file_id": NO_FILE}, 404, "file_not_found", None),
    ({"endpoint": "/v1/embeddings"}, 400, "unsupported_parameter", "endpoint"),
    ({"endpoint": "/v1/responses"}, 400, "unsupported_parameter", "endpoint"),
    ({"endpoint": "/v1/chat"}, 400, "invalid_value", "endpoint"),
    ({"endpoint": None}, 400, "invalid_type", "endpoint"),
    ({"completion_window": "48h"}, 400, "invalid_value", "completion_window"),
    ({"completion_window": 24}, 400, "invalid_type", "completion_window"),
    ({"metadata": []}, 400, "invalid_type", "metadata"),
    ({"metadata": {"k": 1}}, 400, "invalid_type", "metadata.k"),
    ({"metadata": {str(n): "v" for n in range(17)}}, 400, "invalid_value", "metadata"),
    ({"metadata": {"k" * 65: "v"}}, 400, "invalid_value", "metadata"),
    ({"metadata": {"k": "v" * 513}}, 400, "invalid_value", "metadata"),
    ({"output_expires_after": 3_600}, 400, "invalid_type", "output_expires_after"),
    ({"output_expires_after": {"seconds": 3_600}}, 400, "missing_required_parameter", "output_expires_after.anchor"),
    ({"output_expires_after": {"anchor": "created_at"}}, 400, "missing_required_parameter", "output_expires_after.seconds"),
    ({"output_expires_after": {"anchor": "now", "seconds": 3_600}}, 400, "invalid_value", "output_expires_after.anchor"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 3_599}}, 400, "invalid_value", "output_expires_after.seconds"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}}, 400, "invalid_value", "output_expires_after.seconds"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": "3600"}}, 400, "invalid_type", "output_expires_after.seconds"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": True}}, 400, "invalid_type", "output_expires_after.seconds"),
    ({"wibble": 1}, 400, "unknown_parameter", "wibble"),
]


@pytest.fixture
async def input_id(http: httpx.AsyncClient) -> str:
    file_id: str = (await http.post(FILES, content=GOOD, headers={"content-type": FORM})).json()["id"]
    return file_id


@pytest.mark.parametrize(("changed", "status", "code", "param"), BAD_BATCHES)
async def test_bad_batches(
    http: httpx.AsyncClient, input_id: str, changed: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    fields = {"input_file_id": input_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"} | changed
    response = await http.post(BATCHES, json={name: value for name, value in fields.items() if value is not ...})
    refused(response, status, code, param)
    assert (await http.get(BATCHES)).json()["data"] == []


async def test_a_result_is_no_input(http: httpx.AsyncClient, archive: Archive) -> None:
    record = FileRecord(
        id=new_file_id(), tenant="default", filename="output.jsonl", purpose=Purpose.BATCH_OUTPUT, size=0, created_ms=1_700_000_000_000
    )
    await archive.files.put(record)
    fields = {"input_file_id": record.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    refused(await http.post(BATCHES, json=fields), 400, "invalid_value", "input_file_id")


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "param"),
    [
        (b"", {}, 400, "invalid_json", None),
        (b"[]", {}, 400, "invalid_json", None),
        (b'{"input_file_id":', {}, 400, "invalid_json", None),
        (b"{}" + b" " * 65_536, {}, 413, "body_too_large", None),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type", None),
        (b"{}", {"idempotency-key": ""}, 400, "invalid_value", "Idempotency-Key"),
    ],
)
async def test_bad_bodies(http: httpx.AsyncClient, body: bytes, headers: dict[str, str], status: int, code: str, param: str | None) -> None:
    refused(await http.post(BATCHES, content=body, headers={"content-type": "application/json"} | headers), status, code, param)


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "param"),
    [
        ("GET", f"{FILES}/nonsense", 404, "file_not_found", "file_id"),
        ("GET", f"{FILES}/{NO_FILE}", 404, "file_not_found", None),
        ("GET", f"{FILES}/{NO_FILE}%00", 404, "file_not_found", "file_id"),
        ("GET", f"{FILES}/{NO_FILE.upper()}", 404, "file_not_found", "file_id"),
        ("GET", f"{FILES}/..%2f..%2fetc%2fpasswd/content", 404, "not_found", None),
        ("GET", f"{FILES}/nonsense/content", 404, "file_not_found", "file_id"),
        ("GET", f"{FILES}/{NO_FILE}/content", 404, "file_not_found", None),
        ("DELETE", f"{FILES}/nonsense", 404, "file_not_found", "file_id"),
        ("DELETE", f"{FILES}/{NO_FILE}", 404, "file_not_found", None),
        ("GET", f"{FILES}?limit=0", 400, "invalid_value", "limit"),
        ("GET", f"{FILES}?limit=10001", 400, "invalid_value", "limit"),
        ("GET", f"{FILES}?limit=x", 400, "invalid_value", "limit"),
        ("GET", f"{FILES}?order=up", 400, "invalid_value", "order"),
        ("GET", f"{FILES}?purpose=vision", 400, "invalid_value", "purpose"),
        ("GET", f"{FILES}?after=x", 404, "file_not_found", "after"),
        ("GET", f"{FILES}?after={NO_FILE}", 404, "file_not_found", None),
        ("PUT", FILES, 405, "method_not_allowed", None),
        ("GET", f"{BATCHES}/nonsense", 404, "batch_not_found", "batch_id"),
        ("GET", f"{BATCHES}/{NO_BATCH}", 404, "batch_not_found", None),
        ("POST", f"{BATCHES}/nonsense/cancel", 404, "batch_not_found", "batch_id"),
        ("POST", f"{BATCHES}/{NO_BATCH}/cancel", 404, "batch_not_found", None),
        ("GET", f"{BATCHES}?limit=0", 400, "invalid_value", "limit"),
        ("GET", f"{BATCHES}?limit=101", 400, "invalid_value", "limit"),
        ("GET", f"{BATCHES}?after=x", 404, "batch_not_found", "after"),
        ("GET", f"{BATCHES}?after={NO_BATCH}", 404, "batch_not_found", None),
        ("DELETE", f"{BATCHES}/{NO_BATCH}", 405, "method_not_allowed", None),
    ],
)
async def test_bad_urls(http: httpx.AsyncClient, method: str, path: str, status: int, code: str, param: str | None) -> None:
    refused(await http.request(method, path), status, code, param)


def refused(response: httpx.Response, status: int, code: str, param: str | None) -> None:
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert param is None or error["param"] == param
    assert 10 < len(error["message"]) < 300
    assert response.headers["x-request-id"]
