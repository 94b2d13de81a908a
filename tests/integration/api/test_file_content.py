"""What is in a file: whole, or while a batch still writes it; and how it reaches its reader."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from headrace.file import FileRecord, Purpose
from headrace.files.journal import Journal, Result
from headrace.files.workspace import Workspace
from headrace.ids import made_file_id, new_batch_id
from headrace.settings import Settings
from headrace.testing.eventually import eventually
from producer_api.archive import Archive

LINES = b'{"custom_id":"a"}\n{"custom_id":"b"}\r\n\xff\x00'


async def upload(http: httpx.AsyncClient, content: bytes = LINES) -> dict[str, Any]:
    response = await http.post("/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"})
    assert response.status_code == 200, response.text
    file: dict[str, Any] = response.json()
    return file


async def test_its_content_is_what_was_sent(http: httpx.AsyncClient) -> None:
    file = await upload(http)
    content = await http.get(f"/v1/files/{file['id']}/content", headers={"accept": "application/binary", "range": "bytes=0-1"})
    assert (content.status_code, content.content) == (200, LINES)
    assert content.headers["content-length"] == str(len(LINES))
    assert content.headers["content-disposition"] == 'attachment; filename="in.jsonl"'
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["x-content-type-options"] == "nosniff"
    assert "x-incomplete" not in content.headers


class TestWhileABatchWrites:
    @pytest.fixture
    def batch_id(self) -> str:
        return new_batch_id()

    @pytest.fixture
    async def record(self, archive: Archive, batch_id: str) -> FileRecord:
        record = FileRecord(
            id=made_file_id(batch_id, "output"),
            tenant="default",
            filename="output.jsonl",
            purpose=Purpose.BATCH_OUTPUT,
            size=4,
            created_ms=1_700_000_000_000,
            batch_id=batch_id,
        )
        await archive.files.put(record)
        return record

    @pytest.fixture
    def workspace(self, files_dir: Path, batch_id: str) -> Workspace:
        workspace = Workspace(files_dir, batch_id)
        workspace.create()
        return workspace

    @staticmethod
    def finish(workspace: Workspace, *lines: int, answered: bool = True) -> None:
        Journal(workspace.journal).append([Result(line, answered, 1, 1, b'{"line":%d}' % line) for line in lines])

    async def test_its_content_is_the_answers_up_to_the_first_that_is_missing(
        self, http: httpx.AsyncClient, record: FileRecord, workspace: Workspace
    ) -> None:
        async def content() -> bytes:
            response = await http.get(f"/v1/files/{record.id}/content")
            assert (response.status_code, response.headers["x-incomplete"]) == (200, "true")
            assert response.headers["transfer-encoding"] == "chunked"
            assert response.headers["content-disposition"] == 'attachment; filename="output.jsonl"'
            return response.content

        assert await content() == b"", "nothing is written yet"
        self.finish(workspace, 2, 3)
        assert await content() == b"", "the first line is missing"
        self.finish(workspace, 0)
        self.finish(workspace, 1, answered=False)
        assert await content() == b'{"line":0}\n{"line":2}\n{"line":3}\n'

    async def test_a_long_one(self, http: httpx.AsyncClient, record: FileRecord, workspace: Workspace) -> None:
        self.finish(workspace, *range(60_000))
        content = (await http.get(f"/v1/files/{record.id}/content")).content
        assert content == b"".join(b'{"line":%d}\n' % line for line in range(60_000))

    async def test_one_that_ends_at_that_moment(
        self, http: httpx.AsyncClient, archive: Archive, record: FileRecord, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The record is read, then the batch ends and takes its journal with it, then the journal is looked for."""
        look = archive.files.get

        async def look_and_end(tenant: str, file_id: str) -> FileRecord:
            before = await look(tenant, file_id)
            if before.batch_id is not None:
                scratch = archive.blobs.scratch()
                scratch.write_bytes(b"done")
                archive.blobs.publish(scratch, file_id)
                await archive.files.put(replace(before, batch_id=None))
                workspace.remove()
            return before

        self.finish(workspace, 0)
        monkeypatch.setattr(archive.files, "get", look_and_end)
        content = await http.get(f"/v1/files/{record.id}/content")
        assert (content.status_code, content.content) == (200, b"done")
        assert "x-incomplete" not in content.headers


class TestDownloads:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_file_bytes": 1 << 26})

    @staticmethod
    def readers(files_dir: Path) -> int:
        """Open descriptors of blobs in this process."""
        links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        return sum(os.path.realpath(link).startswith(str(files_dir / "blobs") + "/") for link in links)

    @pytest.mark.parametrize("leaves", [True, False])
    async def test_a_client_that_takes_no_more_holds_no_file(
        self,
        url: str,
        http: httpx.AsyncClient,
        files_dir: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        leaves: bool,
    ) -> None:
        if not leaves:
            monkeypatch.setattr("producer_api.timed_stream.SEND_TIMEOUT_S", 0.3)
        file = await upload(http, bytes(40_000_000))
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port, limit=1_024)
        writer.write(f"GET /v1/files/{file['id']}/content HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        assert self.readers(files_dir) == 1
        if leaves:
            writer.close()

        async def closed() -> bool:
            return self.readers(files_dir) == 0

        await eventually(closed, pause=0.01)
        writer.close()
        assert "unhandled" not in caplog.text

    async def test_a_record_whose_bytes_are_gone(self, http: httpx.AsyncClient, archive: Archive) -> None:
        file = await upload(http)
        archive.blobs.delete(file["id"])
        response = await http.get(f"/v1/files/{file['id']}/content")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "file_not_found")

    async def test_a_file_deleted_while_it_is_read_is_read_to_its_end(self, url: str, http: httpx.AsyncClient) -> None:
        content = os.urandom(40_000_000)
        file = await upload(http, content)
        async with http.stream("GET", f"/v1/files/{file['id']}/content") as response:
            assert (await http.delete(f"/v1/files/{file['id']}")).status_code == 200
            assert await response.aread() == content
