"""Receiving an upload, below HTTP: what is in memory, and what is left on the disk."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from headrace.files.folder import FolderBlobs
from producer_api.envelope import HttpError
from producer_api.upload import receive

MB = 1 << 20
CHUNK = bytes(range(256)) * 256
PART = b"--b\r\nContent-Disposition: form-data; name="
HEAD = PART + b'"purpose"\r\n\r\nbatch\r\n' + PART + b'"file"; filename="f"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path)


def request(body: AsyncIterator[bytes], *, broken_off: bool = False) -> Request:
    async def receive() -> Message:
        async for chunk in body:
            return {"type": "http.request", "body": chunk, "more_body": True}
        return {"type": "http.disconnect"} if broken_off else {"type": "http.request", "body": b"", "more_body": False}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    return Request({"type": "http", "method": "POST", "path": "/v1/files", "query_string": b"", "headers": headers}, receive)


async def sent(size: int) -> AsyncIterator[bytes]:
    yield HEAD
    for _ in range(size // len(CHUNK)):
        yield CHUNK
    yield TAIL


def scratches(root: Path) -> list[Path]:
    return list((root / "scratch").iterdir())


async def test_a_large_file_is_never_in_memory(blobs: FolderBlobs, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        async with receive(request(sent(32 * MB)), blobs, 32 * MB) as upload:
            peak = tracemalloc.get_traced_memory()[1]
            assert (upload.size, upload.scratch.stat().st_size) == (32 * MB, 32 * MB)
            assert upload.scratch.read_bytes() == CHUNK * (32 * MB // len(CHUNK))
    finally:
        tracemalloc.stop()
    assert peak < 4 * MB
    assert scratches(tmp_path) == []


async def test_what_was_published_stays(blobs: FolderBlobs, tmp_path: Path) -> None:
    blob_id = "file-" + "0" * 32
    async with receive(request(sent(len(CHUNK))), blobs, MB) as upload:
        blobs.publish(upload.scratch, blob_id)
    with blobs.open(blob_id) as file:
        assert file.read() == CHUNK
    assert scratches(tmp_path) == []


async def left(_: Path) -> AsyncIterator[bytes]:
    yield HEAD
    yield CHUNK * 32


async def wrong(scratch: Path) -> AsyncIterator[bytes]:
    yield HEAD
    yield CHUNK * 32
    assert len(scratches(scratch)) == 1, "the file is written while it arrives"
    yield b"\r\n" + PART + b'"n"\r\n\r\n'
    yield b"the rest is read and dropped" * 1_000


async def too_large(scratch: Path) -> AsyncIterator[bytes]:
    async for chunk in sent(3 * MB):
        yield chunk


async def stuffed(_: Path) -> AsyncIterator[bytes]:
    yield HEAD + TAIL
    for chunk in [CHUNK] * 5:
        yield chunk


@pytest.mark.parametrize(("body", "status"), [(left, None), (wrong, 400), (too_large, 413), (stuffed, 413)])
async def test_whatever_goes_wrong_nothing_is_left(
    blobs: FolderBlobs, tmp_path: Path, body: Callable[[Path], AsyncIterator[bytes]], status: int | None
) -> None:
    coming = body(tmp_path)
    with pytest.raises(ClientDisconnect if status is None else Exception) as caught:
        async with receive(request(coming, broken_off=status is None), blobs, 2 * MB):
            pytest.fail("an upload that was never whole")
    assert status is None or getattr(caught.value, "status", None) == status
    assert scratches(tmp_path) == []
    assert [chunk async for chunk in coming] == [], "a body of up to four times the limit is read to its end"


async def test_a_silent_client_is_given_up(blobs: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield HEAD
        await asyncio.Event().wait()

    monkeypatch.setattr("producer_api.upload.STALL_S", 0.05)
    with pytest.raises(HttpError) as caught:
        async with receive(request(stalled()), blobs, MB):
            pytest.fail("an upload that was never whole")
    assert (caught.value.status, caught.value.code) == (408, "upload_stalled")
    assert scratches(tmp_path) == []


async def test_a_much_too_large_body_is_not_read_to_its_end(blobs: FolderBlobs) -> None:
    coming = sent(32 * MB)
    with pytest.raises(HttpError, match="limit of 1048576 bytes"):
        async with receive(request(coming), blobs, MB):
            pytest.fail("an upload that was never whole")
    assert 27 * MB < sum([len(chunk) async for chunk in coming]) < 29 * MB
