"""Errors as the OpenAI API words them: `{"error": {"message", "type", "param", "code"}}`, all four keys always present.

One table maps each error to its answer. The framework's own errors (404, 405, malformed query) come out in the same envelope, and what was
not foreseen is a 500 that tells its caller nothing but the request id.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from headrace.errors import HeadraceError, LogUnavailable, ModelUnavailable, QueueFull, QueueUnavailable, RequestError, TenantFull
from headrace.state import State
from headrace.wire.outcomes import OUTCOMES, ended_error, error_object
from producer_api.retry_after import retry_after

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for the access statistics; nobody receives it."""

TELL_EVERY_S = 60.0
"""Of refused requests the log has a line at the first, and then one a minute."""

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}


class HttpError(RequestError):
    """A refusal with a status, code and headers of its own."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status
        self.headers = dict(headers or {})


class Refusals:
    """Requests that an outage or a bound refuses come by the thousand: they are counted, and told once in TELL_EVERY_S for each reason."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._told_at: dict[type, float] = {}
        self._untold: dict[type, Counter[str]] = {}

    def count(self, why: QueueUnavailable | LogUnavailable | QueueFull, tenant: str) -> None:
        """The reason is the error's type."""
        reason, now = type(why), self._clock()
        untold = self._untold.setdefault(reason, Counter())
        # The tenant matters where the bound is its own.
        untold[tenant if isinstance(why, TenantFull) else ""] += 1
        if now - self._told_at.get(reason, float("-inf")) < TELL_EVERY_S:
            return
        if isinstance(why, TenantFull):
            most, its = untold.most_common(1)[0]
            logger.warning("requests refused count=%d why=a tenant's bound is reached, most=%s with %d", untold.total(), most, its)
        else:
            logger.warning("requests refused count=%d why=%s", untold.total(), why)
        self._told_at[reason] = now
        untold.clear()


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def error_response(error: RequestError) -> Response:
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if error.status in (409, 422):
        # The official client takes 409 for a lost race and sends the request again.
        headers.setdefault("x-should-retry", "false")
    body = error_object(error.message, status=error.status, code=error.code, param=error.param)
    return json_response({"error": body}, error.status, headers)


def unavailable(message: str, *, code: str, seconds: int = 1) -> HttpError:
    """503, come back in `seconds`."""
    return HttpError(503, message, code=code, headers={"Retry-After": str(seconds)})


def shutting_down() -> HttpError:
    return unavailable("The server is shutting down; send the request again.", code="shutting_down")


def no_room(error: QueueFull) -> HttpError:
    """429 if it is the tenant's own bound, else 503; both say which bound, and when to come back."""
    status, code = (429, "rate_limit_exceeded") if isinstance(error, TenantFull) else (503, "queue_full")
    said = str(error)
    headers = {"Retry-After": str(retry_after(error.retry_after, random.random()))}
    return HttpError(status, f"{said[:1].upper()}{said[1:]}.", code=code, headers=headers)


def ended_refusal(state: State, reason: str) -> HttpError:
    """The same as an answer to a call that waited: 500 failed or dead, 504 expired, 409 cancelled.

    None is worth sending again: the same request would fail, expire or crash its worker again, or was cancelled on purpose.
    """
    error = ended_error(state, reason)
    return HttpError(OUTCOMES[state].status, str(error["message"]), code=str(error["code"]), headers={"x-should-retry": "false"})


def internal_error() -> Response:
    body = error_object("The server failed to handle this request; its log has the reason.", status=500, code="internal_error")
    return json_response({"error": body}, 500)


def as_request_error(error: HeadraceError) -> RequestError | None:
    """The answer to an error raised on purpose; None for one that no caller should ever see."""
    match error:
        case RequestError():
            return error
        case QueueFull():
            return no_room(error)
        case QueueUnavailable():
            return unavailable("The queue did not answer; the same request may be sent again.", code="queue_unavailable")
        case LogUnavailable():
            return unavailable("The log of requests did not take it; the same request may be sent again.", code="queue_unavailable")
        case ModelUnavailable():
            return unavailable(str(error), code="model_unavailable", seconds=2)
        case _:
            return None


def install(app: FastAPI) -> None:
    """Give `app` these answers to errors raised in its routes. What falls through is answered by the outer middleware."""
    refusals = Refusals(time.monotonic)

    @app.exception_handler(HeadraceError)
    async def on_purpose(request: Request, error: HeadraceError) -> Response:
        answer = as_request_error(error)
        if answer is None:
            raise error
        if isinstance(error, QueueUnavailable | LogUnavailable | QueueFull):
            refusals.count(error, getattr(request.state, "tenant", ""))  # a probe has none
        return error_response(answer)

    @app.exception_handler(HTTPException)
    async def by_the_framework(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, "http_error")
        message = str(error.detail)
        if error.status_code in (404, 405):
            message = f"{HTTPStatus(error.status_code).phrase}: {request.method} {request.url.path[:200]}"
        return error_response(HttpError(error.status_code, message, code=code, headers=error.headers))

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(RequestValidationError)
    async def malformed_query(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = str(first["loc"][-1])
        message = f"'{param}': {first['msg']}, got {str(first['input'])[:40]!r}."
        return error_response(HttpError(400, message, code="invalid_value", param=param))
