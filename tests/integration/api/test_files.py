import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from headrace.file import FileRecord, Purpose
from headrace.ids import new_batch_id, new_file_id
from headrace.settings import Settings
from headrace.testing.eventually import eventually
from headrace.testing.outages import cut_off, lose_replies
from producer_api.archive import Archive

LINES = b'{"custom_id":"a"}\n{"custom_id":"b"}\r\n\xff\x00'
HOUR_S, MONTH_S = 3_600, 2_592_000


async def post(
    http: httpx.AsyncClient, content: bytes = LINES, *, name: str = "in.jsonl", key: str | None = None, **fields: str
) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return await http.post("/v1/files", files={"file": (name, content)}, data={"purpose": "batch"} | fields, headers=headers)


async def upload(http: httpx.AsyncClient, content: bytes = LINES, **given: str) -> dict[str, Any]:
    response = await post(http, content, **given)
    assert response.status_code == 200, response.text
    file: dict[str, Any] = response.json()
    return file


async def listed(http: httpx.AsyncClient, **params: str | int) -> list[str]:
    return [file["id"] for file in (await http.get("/v1/files", params=params)).json()["data"]]


def on_disk(files_dir: Path) -> tuple[list[str], list[str]]:
    """Blobs and scratch files."""
    return sorted(os.listdir(files_dir / "blobs")), os.listdir(files_dir / "scratch")


def made(*, still_by: str | None = None) -> FileRecord:
    """A file as a batch makes it."""
    return FileRecord(
        id=new_file_id(),
        tenant="default",
        filename="output.jsonl",
        purpose=Purpose.BATCH_OUTPUT,
        size=4,
        created_ms=1_700_000_000_000,
        batch_id=still_by,
    )


async def test_an_uploaded_file(http: httpx.AsyncClient, files_dir: Path) -> None:
    file = await upload(http)
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(LINES),
        "created_at": file["created_at"],
        "expires_at": file["created_at"] + MONTH_S,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert (await http.get(f"/v1/files/{file['id']}")).json() == file
    assert (await http.get("/v1/files")).json() == {
        "object": "list",
        "data": [file],
        "first_id": file["id"],
        "last_id": file["id"],
        "has_more": False,
    }
    assert on_disk(files_dir) == ([file["id"]], [])


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_000_000])
async def test_files_of_any_size_up_to_the_limit(http: httpx.AsyncClient, settings: Settings, size: int) -> None:
    assert settings.max_file_bytes == 3_000_000
    content = os.urandom(size)
    file = await upload(http, content)
    assert file["bytes"] == size
    assert (await http.get(f"/v1/files/{file['id']}/content")).content == content


@pytest.mark.parametrize("file_first", [True, False])
async def test_fields_may_come_in_any_order(http: httpx.AsyncClient, file_first: bool) -> None:
    fields = {"purpose": "batch", "expires_after[seconds]": str(HOUR_S), "expires_after[anchor]": "created_at"}
    parts: list[Any] = [(name, (None, value)) for name, value in fields.items()]
    file = ("file", ("größe.jsonl", LINES, "application/jsonl"))
    response = await http.post("/v1/files", files=[file, *parts] if file_first else [*parts, file])
    assert response.status_code == 200, response.text
    shown = response.json()
    assert (shown["filename"], shown["expires_at"] - shown["created_at"]) == ("größe.jsonl", HOUR_S)
    content = await http.get(f"/v1/files/{shown['id']}/content")
    assert content.headers["content-disposition"] == "attachment; filename*=utf-8''gr%C3%B6%C3%9Fe.jsonl"


async def test_a_name_is_never_a_path(http: httpx.AsyncClient, files_dir: Path) -> None:
    file = await upload(http, name='../../etc/"x"\r\nevil: 1')
    assert "/" not in file["filename"]
    content = await http.get(f"/v1/files/{file['id']}/content")
    assert "evil" not in content.headers
    assert on_disk(files_dir) == ([file["id"]], [])


class TestTooLarge:
    async def test_by_a_byte(self, http: httpx.AsyncClient, files_dir: Path) -> None:
        response = await post(http, bytes(3_000_001))
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (413, "file_too_large", "file")
        assert "limit of 3000000 bytes" in error["message"]
        assert on_disk(files_dir) == ([], [])

    async def test_without_a_content_length(self, http: httpx.AsyncClient, files_dir: Path) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
            for _ in range(50):
                yield bytes(100_000)

        response = await http.post("/v1/files", content=chunks(), headers={"content-type": "multipart/form-data; boundary=b"})
        assert (response.status_code, response.json()["error"]["code"]) == (413, "file_too_large")
        assert on_disk(files_dir) == ([], [])

    async def test_hopelessly_is_refused_by_its_length_alone(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("producer_api.body.LEFTOVER_S", 0.1)
        head = b"content-type: multipart/form-data; boundary=b\r\ncontent-length: 99999999999\r\n\r\n-"
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        writer.write(b"POST /v1/files HTTP/1.1\r\nhost: x\r\n" + head)
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(
    url: str, http: httpx.AsyncClient, files_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    head = b"content-type: multipart/form-data; boundary=b\r\ncontent-length: 2500000\r\n\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    writer.write(b"POST /v1/files HTTP/1.1\r\nhost: x\r\n" + head + part + bytes(2_000_000))
    await writer.drain()

    async def begun() -> bool:
        return any((files_dir / "scratch" / name).stat().st_size for name in os.listdir(files_dir / "scratch"))

    async def gone() -> bool:
        return not os.listdir(files_dir / "scratch")

    await eventually(begun, pause=0.01)
    writer.close()
    await writer.wait_closed()
    await eventually(gone, pause=0.01)
    assert 'method="POST",route="/v1/files",status="499"' in (await http.get("/metrics")).text
    assert on_disk(files_dir) == ([], [])
    assert "Traceback" not in caplog.text


class TestIdempotency:
    async def test_the_same_upload_is_the_same_file(self, http: httpx.AsyncClient, files_dir: Path) -> None:
        first, again = [await post(http, key="k") for _ in range(2)]
        assert (again.status_code, again.json()) == (200, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        assert on_disk(files_dir) == ([first.json()["id"]], [])
        assert await upload(http, key="other") != first.json()

    @pytest.mark.parametrize(
        "changed",
        [{"content": LINES + b"\n"}, {"name": "b.jsonl"}, {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}],
    )
    async def test_another_upload_under_the_key_is_a_conflict(
        self, http: httpx.AsyncClient, files_dir: Path, changed: dict[str, Any]
    ) -> None:
        first = await upload(http, key="k")
        response = await post(http, **{"key": "k", **changed})
        assert (response.status_code, response.json()["error"]["code"]) == (422, "idempotency_conflict")
        assert response.headers["x-should-retry"] == "false"
        assert on_disk(files_dir) == ([first["id"]], [])

    @pytest.mark.parametrize("key", [None, "k"])
    async def test_a_lost_reply_does_not_store_twice(
        self, http: httpx.AsyncClient, archive: Archive, files_dir: Path, key: str | None
    ) -> None:
        lose_replies(archive.files, "add", 1)
        response = await post(http, key=key)
        assert response.status_code == 200
        assert "idempotent-replayed" not in response.headers, "the repeat was ours, not the caller's"
        assert await listed(http) == [response.json()["id"]]
        assert on_disk(files_dir) == ([response.json()["id"]], [])

    async def test_without_an_answer_the_bytes_stay(self, http: httpx.AsyncClient, archive: Archive, files_dir: Path) -> None:
        """It may be recorded all the same, and a record whose bytes are gone would be a lost file."""
        lose_replies(archive.files, "add", 2)
        response = await post(http, key="k")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_unavailable")
        again = await post(http, key="k")
        assert again.headers["idempotent-replayed"] == "true"
        assert (await http.get(f"/v1/files/{again.json()['id']}/content")).content == LINES
        assert on_disk(files_dir) == ([again.json()["id"]], [])


class TestLists:
    async def test_pages(self, http: httpx.AsyncClient) -> None:
        ids = [(await upload(http))["id"] for _ in range(5)]
        for order, wanted in (("asc", ids), ("desc", ids[::-1])):
            seen: list[str] = []
            after: dict[str, str] = {}
            for has_more, size in ((True, 2), (True, 2), (False, 1)):
                page = (await http.get("/v1/files", params={"limit": 2, "order": order, **after})).json()
                assert (page["has_more"], len(page["data"])) == (has_more, size)
                assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
                seen += [file["id"] for file in page["data"]]
                after = {"after": page["last_id"]}
            assert seen == wanted
        assert await listed(http) == ids[::-1]

    async def test_an_empty_one(self, http: httpx.AsyncClient) -> None:
        empty: dict[str, Any] = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
        assert (await http.get("/v1/files")).json() == empty

    async def test_by_purpose(self, http: httpx.AsyncClient, archive: Archive) -> None:
        uploaded = (await upload(http))["id"]
        output = made()
        await archive.files.put(output)
        assert await listed(http, purpose="batch") == [uploaded]
        assert await listed(http, purpose="batch_output") == [output.id]
        assert sorted(await listed(http)) == sorted([uploaded, output.id])


class TestExpired:
    async def test_it_is_gone_before_it_is_swept(self, http: httpx.AsyncClient, archive: Archive) -> None:
        file = await upload(http)
        record = await archive.files.get("default", file["id"])
        await archive.files.put(replace(record, expires_ms=record.created_ms))
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            response = await http.request(method, f"/v1/files/{file['id']}{path}")
            assert (response.status_code, response.json()["error"]["code"]) == (404, "file_not_found")
        assert await archive.files.known([file["id"]]) == [True]

    async def test_it_takes_no_place_in_a_list(self, http: httpx.AsyncClient, archive: Archive) -> None:
        """A page that is short, or empty, for its sake would end a client's loop too early."""
        ids = [(await upload(http))["id"] for _ in range(9)]
        for file_id in ids[1:-1]:
            record = await archive.files.get("default", file_id)
            await archive.files.put(replace(record, expires_ms=record.created_ms))
        page = (await http.get("/v1/files", params={"limit": 1})).json()
        assert ([file["id"] for file in page["data"]], page["has_more"]) == ([ids[-1]], True)
        rest = (await http.get("/v1/files", params={"limit": 1, "after": ids[-1]})).json()
        assert ([file["id"] for file in rest["data"]], rest["has_more"]) == ([ids[0]], False)
        assert await listed(http, limit=2) == [ids[-1], ids[0]]


class TestDeletion:
    async def test_it_takes_the_bytes_too(self, http: httpx.AsyncClient, files_dir: Path) -> None:
        file = await upload(http)
        gone = await http.delete(f"/v1/files/{file['id']}")
        assert gone.json() == {"id": file["id"], "object": "file", "deleted": True}
        assert (await http.delete(f"/v1/files/{file['id']}")).status_code == 404
        assert (await http.get(f"/v1/files/{file['id']}/content")).status_code == 404
        assert (await listed(http), on_disk(files_dir)) == ([], ([], []))

    async def test_a_lost_reply_is_not_a_missing_file(self, http: httpx.AsyncClient, archive: Archive, files_dir: Path) -> None:
        file = await upload(http)
        lose_replies(archive.files, "remove", 1)
        assert (await http.delete(f"/v1/files/{file['id']}")).json()["deleted"]
        assert on_disk(files_dir) == ([], [])

    async def test_what_a_batch_still_writes_stays(self, http: httpx.AsyncClient, archive: Archive) -> None:
        batch_id = new_batch_id()
        record = made(still_by=batch_id)
        await archive.files.put(record)
        response = await http.delete(f"/v1/files/{record.id}")
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (409, "file_in_use", "file_id")
        assert response.headers["x-should-retry"] == "false"
        assert batch_id in error["message"]
        assert (await http.get(f"/v1/files/{record.id}")).status_code == 200


async def test_without_a_store(http: httpx.AsyncClient, archive: Archive, files_dir: Path) -> None:
    file = await upload(http)
    cut_off(archive.files, "add", "get", "list_files", "remove")
    answers = [await post(http), await http.get("/v1/files")]
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        answers.append(await http.request(method, f"/v1/files/{file['id']}{path}"))
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_unavailable")
        assert answer.headers["retry-after"] == "1"
    assert file["id"] in on_disk(files_dir)[0]
