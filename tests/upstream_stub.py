"""An HTTP upstream that does as a test says. The token it generates at a place follows from the place, so a resumed answer can be told from
one that began anew."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROMPT = (10, 20, 30, 40, 50)
EOS = 63


def token_at(place: int) -> int:
    return place * 7 % EOS


def answer(start: int, stop: int) -> list[int]:
    return [token_at(place) for place in range(start, stop)]


class Call:
    """One request, and how to answer it."""

    def __init__(self, http: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self.http = http
        self.body = body
        self.headers = dict(http.headers)
        self.gone = threading.Event()
        """Whoever asked went away before the end."""

    @property
    def start(self) -> int:
        """Tokens of the answer that are in its prompt."""
        return len(self.body["prompt"]) - len(PROMPT)

    def status(self, code: int, body: object = "no", **headers: str) -> None:
        data = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self.http.send_response(code)
        for name, value in headers.items():
            self.http.send_header(name.replace("_", "-"), value)
        self.http.send_header("content-length", str(len(data)))
        self.http.send_header("connection", "close")  # or it would answer on after it was shut down
        self.http.end_headers()
        self.http.wfile.write(data)

    def begin(self) -> None:
        self.http.send_response(200)
        self.http.send_header("content-type", "text/event-stream")
        self.http.send_header("connection", "close")
        self.http.end_headers()

    def send(self, data: object) -> None:
        try:
            self.http.wfile.write(b"data: %b\n\n" % (data if isinstance(data, bytes) else json.dumps(data).encode()))
            self.http.wfile.flush()
        except OSError:
            self.gone.set()

    def tokens(self, token_ids: list[int]) -> None:
        self.send({"choices": [{"text": "x" * len(token_ids), "token_ids": token_ids, "finish_reason": None}]})

    def finish(self, reason: str) -> None:
        self.send({"choices": [{"text": "", "finish_reason": reason}]})
        self.send(b"[DONE]")

    def close(self) -> None:
        """In the middle of whatever was said."""
        self.http.close_connection = True

    def whole(self) -> None:
        """The answer as it should be: streamed, or in one piece."""
        stop = self.start + self.body["max_tokens"]
        if not self.body["stream"]:
            choice = {"text": "x", "token_ids": answer(self.start, stop), "finish_reason": "length"}
            self.status(200, {"choices": [choice]})
            return
        self.begin()
        for token in answer(self.start, stop):
            self.tokens([token])
        self.finish("length")


class Stub:
    """Answers each call by the next of `script`, or in full when that has run out."""

    def __init__(self, port: int = 0) -> None:
        self.script: deque[Callable[[Call], None]] = deque()
        self.calls: list[Call] = []
        self.otherwise: Callable[[Call], None] = Call.whole
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def forget(self) -> None:
        self.calls.clear()

    def _handler(stub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                assert self.path == "/v1/completions"
                call = Call(self, json.loads(self.rfile.read(int(self.headers["content-length"]))))
                stub.calls.append(call)
                (stub.script.popleft() if stub.script else stub.otherwise)(call)

            def log_message(self, *_: object) -> None:
                """A test that wants to know asks for `calls`."""

        return Handler


@contextmanager
def stubbing(stub: Stub | None = None) -> Iterator[Stub]:
    stub = stub or Stub()
    thread = threading.Thread(target=stub.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        stub.server.shutdown()
        stub.server.server_close()
        thread.join()
