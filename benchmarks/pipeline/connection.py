"""One client of the API on one connection. An HTTP library takes longer for a request than the API does, and would be what is measured."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson


@dataclass(frozen=True, slots=True)
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def submit(self, body: bytes) -> float:
        """Seconds until the 202 was read whole. Raises RuntimeError for any other answer."""
        head = f"POST /v1/jobs HTTP/1.1\r\nhost: pipeline\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        began = time.perf_counter()
        self.writer.write(head.encode() + body)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        content = await self.reader.readexactly(int(answer.partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0]))
        took = time.perf_counter() - began
        status = answer.split(b" ", 2)[1]
        if status != b"202":
            raise RuntimeError(f"POST /v1/jobs was answered {status.decode()}: {content.decode()}")
        return took


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


def chat(model: str, *, max_tokens: int, stream: bool = False) -> bytes:
    messages = [{"role": "user", "content": "Why does the mill race run straight?"}]
    return orjson.dumps({"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": stream})
