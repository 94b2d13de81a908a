"""Calls to an API that may be away for a while: each is repeated until it is answered, and whoever looks is told why it takes so long.

Everything called through here may be repeated: reads, and what is created under an idempotency key.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

import httpx

from headrace.cli.api_client import key_header, message_of
from headrace.errors import HeadraceError

PATIENCE_S = 600.0
"""How long a server may stay away in one go: longer than it takes to convert and load a model."""
FIRST_PATIENCE_S = 60.0
"""One that was never there may be starting; more likely the URL is wrong."""
FAULT_PATIENCE_S = 30.0
"""A fault of the server may come from its being stopped right now; one that lasts is its own, and waiting does not mend it."""
RETRY_S = 0.5
_LONGEST_PAUSE_S = 10.0
_TIMEOUT = httpx.Timeout(10.0, read=60.0, write=60.0)
_LATER = frozenset({429, 502, 503, 504})

T = TypeVar("T")


class Refused(HeadraceError):
    """The server has understood, and will not do it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class StayedAway(HeadraceError):
    """The server was waited for in vain."""


class _Away(Exception):
    """It does not answer, or asks to come back in `pause` seconds; it may do so for `patience_s`."""

    def __init__(self, why: str, *, pause: float = 0.0, patience_s: float = PATIENCE_S) -> None:
        super().__init__(why)
        self.pause = pause
        self.patience_s = patience_s


class PatientApi:
    """`locate` gives the API's URL, which may change, and may start its server again; `say` is told when it goes away and comes back."""

    def __init__(self, locate: Callable[[], str], say: Callable[[str], None], *, through_proxies: bool = True) -> None:
        self._locate = locate
        self._say = say
        self._longest_s = FIRST_PATIENCE_S
        self._client = httpx.Client(
            timeout=_TIMEOUT, trust_env=through_proxies, headers=key_header(), event_hooks={"response": [self._reached]}
        )

    def __enter__(self) -> "PatientApi":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str) -> Any:
        """The JSON body. Raises Refused, StayedAway."""
        return self._patiently(lambda: _json(self._client.get(path)))

    def post(self, path: str, body: dict[str, Any], *, key: str) -> Any:
        """The JSON body. Raises as `get` does."""
        return self._patiently(lambda: _json(self._client.post(path, json=body, headers={"idempotency-key": key})))

    def upload(self, name: str, content: Callable[[], BinaryIO], *, key: str) -> Any:
        """Upload the file that `content` opens, anew for each attempt; returns the file object. Raises as `get` does."""

        def attempt() -> Any:
            with content() as file:
                part = {"file": (name, file, "application/jsonl")}
                # Sent in chunks: how long it will be is known only once all of it was made.
                return _json(self._client.post("/v1/files", data={"purpose": "batch"}, files=part, headers={"idempotency-key": key}))

        return self._patiently(attempt)

    def download(self, file_id: str, into: BinaryIO) -> None:
        """All of a file that is finished. Raises as `get` does."""

        def attempt() -> None:
            into.seek(0)
            into.truncate()
            with self._client.stream("GET", f"/v1/files/{file_id}/content") as response:
                if response.is_error:
                    response.read()
                _checked(response)
                if response.headers.get("x-incomplete") == "true":
                    raise _Away("the file is still being written")
                for chunk in response.iter_raw():
                    into.write(chunk)

        self._patiently(attempt)

    def _reached(self, _response: httpx.Response) -> None:
        self._longest_s = PATIENCE_S

    def _patiently(self, attempt: Callable[[], T]) -> T:
        away_since: float | None = None
        while True:
            url = self._locate()
            self._client.base_url = httpx.URL(url)
            try:
                with _as_away():
                    answer = attempt()
            except _Away as away:
                now = time.monotonic()
                if away_since is None:
                    away_since = now
                    self._say(f"waiting for {url}: {away}")
                if (waited_s := now - away_since) > min(away.patience_s, self._longest_s):
                    raise StayedAway(f"no answer from {url} for {waited_s:.0f} s ({away}); is `headrace up` running?") from None
                time.sleep(min(max(away.pause, RETRY_S), _LONGEST_PAUSE_S))
                continue
            if away_since is not None:
                self._say(f"{url} answers again")
            return answer


@contextmanager
def _as_away() -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise _Away(str(error) or type(error).__name__) from None


def _json(response: httpx.Response) -> Any:
    try:
        return _checked(response).json()
    except ValueError:
        raise HeadraceError(f"{response.url} answers as no API does; is the URL right?") from None


def _checked(response: httpx.Response) -> httpx.Response:
    """Raises _Away, Refused."""
    if response.status_code in _LATER:
        pause = response.headers.get("retry-after", "")
        raise _Away(message_of(response), pause=float(pause) if pause.isdecimal() else 0.0)
    if response.is_server_error:
        raise _Away(message_of(response), patience_s=FAULT_PATIENCE_S)
    if not response.is_success:
        raise Refused(message_of(response), response.status_code)
    return response
