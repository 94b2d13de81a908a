"""An HTTP upstream that speaks OpenAI's completions API, token ids in and out: Headrace, vLLM, llama.cpp's server and their like.

200, a stream   tokens; one that breaks off is asked for again, behind the tokens that came
no connection, 401, 403, 404, 408, 409, 425, 429, 502, 503, 504
                wait and ask again, for as long as the request lives: it is not to blame
other 5xx, a broken stream, nonsense
                ask again; after three times without a token between it is this request that the upstream cannot run
other 4xx       the upstream refuses the request
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import orjson
from pydantic import SecretStr

from headrace.errors import SettingsError
from headrace.model_folder import ModelFolder
from headrace.request import Sampling
from headrace.state import Fault
from workers.backends.far import RunFailed, Task
from workers.backends.runs import Portion
from workers.backends.upstream_wire import DIALECTS, Dialect, Unreadable, body_of, error_text, read_answer
from workers.engine.output import end_ids_of
from workers.ports import EngineRequest

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Without a token between."""
PAUSE_S = 0.25
"""Doubles with every failure in a row, up to the longest."""
LONGEST_PAUSE_S = 15.0
CONNECT_S = 10.0
DONE = b"[DONE]"
LONGEST_LINE = 1 << 22
_WRONG_SETTINGS = frozenset({401, 403, 404})
"""A key or a model that the upstream does not know: at the start it never has, later somebody is changing something."""
_WAITING = _WRONG_SETTINGS | {408, 409, 425, 429, 502, 503, 504}


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    url: str
    """With its /v1."""
    model: str
    """The upstream's name for it."""
    key: SecretStr | None
    silence_s: float


class Busy(Exception):
    """Not now, for no fault of the request's."""

    def __init__(self, why: str, *, status: int | None = None, pause_s: float = 0.0) -> None:
        super().__init__(why)
        self.status = status
        self.pause_s = pause_s


class Lost(Exception):
    """The answer broke off, or made no sense."""


class Untold(Exception):
    """The stream left out the ids of some tokens. Those behind the last one that was told never happened."""


@dataclass(slots=True)
class _Progress:
    """How far one request has come."""

    got: list[int]
    failures: int = 0
    """Attempts in a row that brought no token."""
    pauses: int = 0
    whole: bool = False
    """The next attempt fetches a slice instead of a stream."""
    ended: bool = False

    def advance(self, token_ids: list[int]) -> None:
        self.got += token_ids
        self.failures = self.pauses = 0

    def pause_s(self) -> float:
        self.pauses += 1
        return min(LONGEST_PAUSE_S, PAUSE_S * 2.0 ** (self.pauses - 1)) * random.uniform(0.5, 1.0)


@dataclass(slots=True)
class _Outage:
    """Said once, however many requests meet it."""

    said: bool = False

    def begins(self, why: str) -> None:
        logger.log(logging.DEBUG if self.said else logging.WARNING, "the upstream does not take requests: %s", why)
        self.said = True

    def ends(self) -> None:
        if self.said:
            logger.info("the upstream takes requests again")
        self.said = False


class UpstreamSource:
    device = "upstream"

    def __init__(self, upstream: Upstream, folder: ModelFolder, *, max_running: int) -> None:
        self._upstream = upstream
        self._folder = folder
        # What an upstream has room for is its own business; it queues, or says 429.
        self._room = max_running * folder.context_length
        self._dialect: Dialect | None = None
        self._learning = asyncio.Lock()
        self._outage = _Outage()
        headers = {} if upstream.key is None else {"authorization": f"Bearer {upstream.key.get_secret_value()}"}
        self._http = httpx.AsyncClient(
            headers=headers,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=max_running),
            timeout=httpx.Timeout(upstream.silence_s, connect=CONNECT_S),
        )

    async def start(self) -> None:
        """One that is not there yet is waited for with the first request. Raises SettingsError if it cannot be used."""
        try:
            await self._learn()
        except Busy as busy:
            self._outage.begins(str(busy))

    async def open(self) -> int:
        return self._room

    async def generate(self, task: Task) -> AsyncIterator[Portion]:
        progress = _Progress(list(task.committed))
        while not progress.ended and len(progress.got) < task.request.sampling.max_tokens:
            try:
                async for portion in self._attempt(task, progress, self._dialect or await self._learn()):
                    yield portion
            except Untold:
                progress.whole = True
            except Busy as busy:
                self._outage.begins(str(busy))
                await asyncio.sleep(max(progress.pause_s(), busy.pause_s))
            except (Lost, Unreadable, httpx.TransportError) as error:
                progress.failures += 1
                why = f"the upstream lost the answer behind {len(progress.got)} tokens: {_said(error)}"
                logger.warning("%s: %s", task.name, why)
                if progress.failures >= ATTEMPTS:
                    raise RunFailed(Fault.ENGINE_ERROR, why) from error
                await asyncio.sleep(progress.pause_s())

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def _place(self) -> str:
        """For messages: a URL may hold a password."""
        url = httpx.URL(self._upstream.url)
        return f"{url.scheme}://{url.netloc.decode()}{url.path}"

    async def _learn(self) -> Dialect:
        """How the upstream tells token ids. Raises SettingsError if it does not, Busy."""
        async with self._learning:
            if self._dialect is not None:
                return self._dialect
            refusals: list[str] = []
            for dialect in DIALECTS:
                if (why := await self._why_not(dialect)) is None:
                    logger.info("the upstream tells token ids as %s does", dialect.name)
                    self._dialect = dialect
                    return dialect
                refusals.append(f"{dialect.name}: {why}")
        raise SettingsError(f"HEADRACE_UPSTREAM_URL: {self._place} cannot be used, for it must tell token ids ({'; '.join(refusals)})")

    async def _why_not(self, dialect: Dialect) -> str | None:
        """None if it understands this dialect. Raises Busy."""
        request = EngineRequest(request_id="", prompt_ids=(0,), sampling=Sampling(max_tokens=2, temperature=0.0, seed=0, ignore_eos=True))
        probe = Task(name="the first question", request=request, committed=())
        try:
            async with self._asked(probe, dialect, [], whole=True) as response:
                told = read_answer(await response.aread(), dialect)
        except (RunFailed, Lost, Unreadable) as error:
            return str(error)
        except httpx.TransportError as error:
            raise Busy(_said(error)) from error
        except Busy as busy:
            if busy.status in _WRONG_SETTINGS:
                return str(busy)
            raise
        return None if told.token_ids else "it tells none"

    async def _attempt(self, task: Task, progress: _Progress, dialect: Dialect) -> AsyncIterator[Portion]:
        """One call. Raises RunFailed, Busy, Lost, Untold, Unreadable, httpx.TransportError."""
        async with self._asked(task, dialect, progress.got, whole=progress.whole) as response:
            self._outage.ends()
            if progress.whole:
                yield await self._slice(response, task, progress, dialect)
                return
            heard = 0
            async for data in _events(response):
                told = read_answer(data, dialect)
                heard += len(told.token_ids or ())
                if told.token_ids is None or told.total not in (None, heard):
                    raise Untold
                if told.token_ids:
                    progress.advance(told.token_ids)
                    yield Portion(told.token_ids)
                if len(progress.got) > task.request.sampling.max_tokens:
                    return
                if told.finish is not None:
                    yield Portion(self._end(task, progress, told.finish))
                    return
        raise Lost("the stream ended before the answer did")

    async def _slice(self, response: httpx.Response, task: Task, progress: _Progress, dialect: Dialect) -> Portion:
        told = read_answer(await response.aread(), dialect)
        if not told.token_ids:
            raise Unreadable("it told no token ids")
        progress.advance(told.token_ids)
        progress.whole = False
        # A slice ends with "length", and the answer goes on.
        end = [] if told.finish == "length" else self._end(task, progress, told.finish or "")
        return Portion(told.token_ids + end)

    def _end(self, task: Task, progress: _Progress, finish: str) -> list[int]:
        """What the end of the answer adds to it. Raises RunFailed, Lost."""
        sampling, got = task.request.sampling, progress.got
        progress.ended = True
        if len(got) >= sampling.max_tokens or (got and got[-1] in end_ids_of(sampling, self._folder.eos_ids)):
            return []
        if finish == "stop" and self._folder.eos_ids and not sampling.ignore_eos:
            # It came to an end-of-text token and kept it to itself. Where there are several, they mean the same.
            return [min(self._folder.eos_ids)]
        progress.ended = False
        if finish in ("stop", "length"):
            error = f"the upstream ended the answer with {finish!r} after {len(got)} of {sampling.max_tokens} tokens"
            raise RunFailed(Fault.ENGINE_ERROR, error)
        raise Lost(f"it ended the answer with {finish!r}")

    @asynccontextmanager
    async def _asked(self, task: Task, dialect: Dialect, got: list[int], *, whole: bool) -> AsyncIterator[httpx.Response]:
        """A response whose status is 200. Raises RunFailed, Busy, Lost, httpx.TransportError."""
        body = body_of(task, self._upstream.model, dialect, got=got, whole=whole)
        try:
            async with self._http.stream("POST", f"{self._upstream.url.rstrip('/')}/completions", json=body) as response:
                if response.status_code != httpx.codes.OK:
                    raise _refusal(response, await response.aread())
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Busy(f"no connection: {_said(error)}") from error


def _refusal(response: httpx.Response, body: bytes) -> Exception:
    status = response.status_code
    try:
        why = f"{status}: {error_text(orjson.loads(body))}"
    except orjson.JSONDecodeError:
        why = f"{status} {response.reason_phrase}"
    if status in _WAITING:
        after = response.headers.get("retry-after", "")
        return Busy(why, status=status, pause_s=min(float(after), LONGEST_PAUSE_S) if after.isdecimal() else 0.0)
    if 400 <= status < 500:
        return RunFailed(None, f"the upstream refuses the request: {why}")
    return Lost(why)


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """The data of server-sent events, up to [DONE]. Every upstream puts it on one line; httpx's own lines end at U+2028 too."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise Unreadable(f"it sent a line of more than {LONGEST_LINE} bytes")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if data == DONE:
                return
            if line.startswith(b"data:"):
                yield data


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
