"""The routes that the command line's batches need, without a model: every line is answered by its own prompt, a few at each look.

Tests hold its answers back at chosen places, and find what it was asked.
"""

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from headrace.testing.listening import listening

MODEL = "test-model"
TOKENS_A_LINE = 7

Reply = Response | StreamingResponse


class Gate:
    """Where replies wait while it is shut. `reached` is set by the first that does."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.reached = asyncio.Event()

    def shut(self) -> None:
        self._open.clear()
        self.reached.clear()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        if not self._open.is_set():
            self.reached.set()
        await self._open.wait()


@dataclass
class Batch:
    id: str
    input_file_id: str
    endpoint: str
    lines: list[dict[str, Any]]
    status: str = "validating"
    done: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)


class FakeApi:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Batch] = {}
        self.asked: Counter[str] = Counter()
        self.uploaded, self.created, self.polled, self.half_sent = Gate(), Gate(), Gate(), Gate()
        self.failing: set[str] = set()
        """custom_ids whose lines fail."""
        self.faults: list[dict[str, Any]] = []
        """What validation finds, if anything."""
        self.models: list[str] = [MODEL]
        self.pace = 2
        """Lines done at each look."""
        self.ends_as: str | None = None
        """How the batch ends once half of its lines are done, if not by completion."""
        self.max_file_bytes: int | None = None
        self.refusals = 0
        """How many of the next requests are told to come back later."""
        self._keys: dict[str, str] = {}

    @property
    def only_batch(self) -> Batch:
        [batch] = self.batches.values()
        return batch

    def app(self) -> Starlette:
        routes = [
            ("GET", "/ready", self._ready),
            ("GET", "/v1/models", self._list_models),
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files/{id}/content", self._content),
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list),
            ("GET", "/v1/batches/{id}", self._get),
            ("POST", "/v1/batches/{id}/cancel", self._cancel),
        ]
        return Starlette(
            routes=[Route(path, self._counted(f"{method} {path}", endpoint), methods=[method]) for method, path, endpoint in routes]
        )

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[str]:
        config = uvicorn.Config(self.app(), host="127.0.0.1", port=port, log_config=None, timeout_graceful_shutdown=1)
        async with listening(Server(config)) as url:
            yield url

    def _counted(self, name: str, endpoint: Any) -> Any:
        async def asked(request: Request) -> Reply:
            self.asked[name] += 1
            if self.refusals:
                self.refusals -= 1
                return _error(503, "The queue did not answer.", {"retry-after": "0"})
            reply: Reply = await endpoint(request)
            return reply

        return asked

    async def _ready(self, _request: Request) -> Reply:
        return JSONResponse({"status": "ready"})

    async def _list_models(self, _request: Request) -> Reply:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _upload(self, request: Request) -> Reply:
        if self.max_file_bytes is not None:
            # Refused while it arrives, as a server does that will not store more than it must.
            received = 0
            async for chunk in request.stream():
                received += len(chunk)
                if received > self.max_file_bytes:
                    return _error(413, f"'file' must be at most {self.max_file_bytes} bytes long.")
        async with request.form() as form:
            file = form["file"]
            assert not isinstance(file, str)
            assert form["purpose"] == "batch"
            content = await file.read()
        file_id = self._once(request, f"file-{len(self.files)}")
        assert self.files.setdefault(file_id, content) == content, "the same key with other bytes"
        await self.uploaded.pass_through()
        return JSONResponse({"id": file_id, "object": "file", "bytes": len(content)})

    async def _create(self, request: Request) -> Reply:
        body = await request.json()
        assert body["completion_window"] == "24h"
        batch_id = self._once(request, f"batch_{len(self.batches)}")
        if batch_id not in self.batches:
            lines = [] if self.faults else [json.loads(line) for line in self.files[body["input_file_id"]].splitlines() if line.strip()]
            self.batches[batch_id] = Batch(batch_id, body["input_file_id"], body["endpoint"], lines)
        await self.created.pass_through()
        return JSONResponse(self._object(self.batches[batch_id]))

    async def _get(self, request: Request) -> Reply:
        if (batch := self._known(request)) is None:
            return _error(404, f"No batch has the id {request.path_params['id']!r}.")
        self._go_on(batch)
        answer = JSONResponse(self._object(batch))
        if batch.done:
            await self.polled.pass_through()
        return answer

    async def _list(self, request: Request) -> Reply:
        newest = list(self.batches.values())[::-1][: int(request.query_params["limit"])]
        return JSONResponse({"object": "list", "data": [self._object(batch) for batch in newest]})

    async def _cancel(self, request: Request) -> Reply:
        if (batch := self._known(request)) is None:
            return _error(404, f"No batch has the id {request.path_params['id']!r}.")
        batch.status = "cancelling"
        return JSONResponse(self._object(batch))

    async def _content(self, request: Request) -> Reply:
        batch_id, _, role = request.path_params["id"].removeprefix("file-of-").partition(".")
        batch = self.batches[batch_id]
        lines = [line for line in self.results(batch) if (line["error"] is None) == (role == "answers")]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        headers = {} if batch.status in ("completed", "expired", "cancelled") else {"x-incomplete": "true"}

        async def pieces() -> AsyncIterator[bytes]:
            yield content[: len(content) // 2]
            await self.half_sent.pass_through()
            yield content[len(content) // 2 :]

        return StreamingResponse(pieces(), headers={"content-length": str(len(content)), **headers})

    def results(self, batch: Batch) -> Iterator[dict[str, Any]]:
        """A result for each line that is done, in order."""
        for number, line in enumerate(batch.lines[: batch.done]):
            if line["custom_id"] in self.failing:
                answer: dict[str, Any] = {"response": None, "error": {"code": "server_error", "message": "It failed."}}
            else:
                body = line["body"]
                asked = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
                answer = {"response": {"status_code": 200, "body": {"text": asked}}, "error": None}
            yield {"id": f"batch_req_{number}", "custom_id": line["custom_id"], **answer}

    def _go_on(self, batch: Batch) -> None:
        match batch.status:
            case "validating":
                batch.errors, batch.status = self.faults, "failed" if self.faults else "in_progress"
            case "in_progress" if self.ends_as and batch.done >= len(batch.lines) // 2:
                batch.status = self.ends_as
            case "in_progress" if batch.done < len(batch.lines):
                batch.done = min(batch.done + self.pace, len(batch.lines))
            case "in_progress":
                batch.status = "finalizing"
            case "finalizing":
                batch.status = "completed"
            case "cancelling":
                batch.status = "cancelled"

    def _object(self, batch: Batch) -> dict[str, Any]:
        failed = sum(result["error"] is not None for result in self.results(batch))
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "input_file_id": batch.input_file_id,
            "status": batch.status,
            "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
            "output_file_id": f"file-of-{batch.id}.answers" if batch.done > failed else None,
            "error_file_id": f"file-of-{batch.id}.errors" if failed and batch.status == "completed" else None,
            "created_at": 1_700_000_000,
            "request_counts": {"total": len(batch.lines), "completed": batch.done - failed, "failed": failed},
            "usage": {"output_tokens": TOKENS_A_LINE * (batch.done - failed)},
        }

    def _known(self, request: Request) -> Batch | None:
        return self.batches.get(request.path_params["id"])

    def _once(self, request: Request, new_id: str) -> str:
        return self._keys.setdefault(request.headers["idempotency-key"], new_id)


class Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the test runner's


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Reply:
    return JSONResponse({"error": {"message": message, "type": "x", "param": None, "code": None}}, status, headers)


def main() -> None:
    """As a process of its own, in the place of `headrace up`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(FakeApi().app(), host="127.0.0.1", port=parser.parse_args().port, log_level="warning")


if __name__ == "__main__":
    main()
