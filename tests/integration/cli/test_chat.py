"""`headrace chat` and `headrace jobs watch` against an API that says what the test wants."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from headrace.testing.listening import listening
from tests.integration.cli.command import Headrace
from tests.integration.cli.fake_api import Server

JOB = "chatcmpl-00" + "a" * 29


class Api:
    """Every stream is the same two pieces; the second may wait for ever."""

    def __init__(self) -> None:
        self.finish = "stop"
        self.may_end = asyncio.Event()
        self.cancelled = asyncio.Event()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._stream, methods=["POST"]),
                Route("/v1/jobs/{id}/events", self._stream),
                Route("/v1/jobs/{id}/cancel", self._cancel, methods=["POST"]),
            ]
        )

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"data": [{"id": "m"}]})

    async def _stream(self, _request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            yield _event("1-1", {"delta": {"content": ":smile: so far"}, "finish_reason": None})
            await self.may_end.wait()
            yield _event("1-2", {"delta": {}, "finish_reason": self.finish})
            yield b"id: 1-3\ndata: [DONE]\n\n"

        return StreamingResponse(events())

    async def _cancel(self, _request: Request) -> Response:
        self.cancelled.set()
        self.may_end.set()
        return JSONResponse({})


def _event(name: str, choice: dict[str, object]) -> bytes:
    return f"id: {name}\ndata: {json.dumps({'id': JOB, 'choices': [{'index': 0, **choice}]})}\n\n".encode()


@pytest.fixture
async def api() -> Api:
    return Api()


@pytest.fixture
async def url(api: Api) -> AsyncIterator[str]:
    async with listening(Server(uvicorn.Config(api.app(), host="127.0.0.1", port=0, log_config=None))) as url:
        yield url


@pytest.mark.parametrize(("finish", "said"), [("stop", ""), ("length", "cut at 9 tokens; --max-tokens for more\n")])
async def test_an_answer_that_was_cut_is_told_beside_it(api: Api, url: str, headrace: Headrace, finish: str, said: str) -> None:
    api.finish = finish
    api.may_end.set()
    told = await headrace("chat", "--url", url, "--max-tokens", "9", "hi")
    assert (told.code, told.stdout, told.stderr) == (0, ":smile: so far\n", said)


async def test_so_is_a_job(api: Api, url: str, headrace: Headrace) -> None:
    api.finish = "length"
    api.may_end.set()
    told = await headrace("jobs", "watch", "--url", url, JOB)
    assert (told.code, told.stdout, told.stderr) == (0, ":smile: so far\n", "cut at its max_tokens; a larger one gives more\n")


async def test_ctrl_c_cancels_the_answer_and_says_so_by_its_exit_code(api: Api, url: str, headrace: Headrace) -> None:
    async with headrace.start("chat", "--url", url, "hi") as command:
        assert command.process.stdout is not None
        assert await command.process.stdout.readexactly(14) == b":smile: so far"
        command.process.send_signal(signal.SIGINT)
        told = await command.ended()
    assert (told.code, told.stdout, told.stderr) == (130, "\n", "")
    assert api.cancelled.is_set()


async def test_ctrl_c_in_a_conversation_stops_the_answer_alone(api: Api, url: str, headrace: Headrace) -> None:
    async with headrace.start("chat", "--url", url) as command:
        assert command.process.stdin is not None
        assert command.process.stdout is not None
        command.process.stdin.write(b"hi\n")
        assert await command.process.stdout.readexactly(14) == b":smile: so far"
        command.process.send_signal(signal.SIGINT)
        told = await command.ended(b"and again\n")
    assert (told.code, told.stdout.count(":smile: so far")) == (0, 1)
