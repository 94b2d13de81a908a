"""The outermost layer of the app: request ids, counts, and an answer to what nobody foresaw.

Plain ASGI: Starlette's BaseHTTPMiddleware hides a client's disconnect from the streams behind it.
"""

import asyncio
import logging
import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer_api.body import Incoming
from producer_api.envelope import error_response, internal_error, shutting_down
from producer_api.log_reader import Interrupted
from producer_api.metrics import Metrics

logger = logging.getLogger(__name__)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Edge:
    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        status, leaving, incoming = 0, False, Incoming(scope, receive)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if leaving or (not incoming.ended and not await incoming.discard()):
                    # The server would go on reading, however long the body is.
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, incoming.receive, send_with_id)
        except Interrupted:
            # Returning with the response unfinished makes the server drop the connection, which is what an unfinished stream needs.
            logger.debug("stream cut request_id=%s", request_id)
        except asyncio.CancelledError:
            # A shutdown waits for so long and no longer. Left alone, the server would answer with a 500, which is no word of ours.
            leaving = True
            if not status:
                await error_response(shutting_down())(scope, receive, send_with_id)
            raise
        except Exception:
            logger.exception("unhandled error request_id=%s method=%s route=%s", request_id, scope["method"], _route(scope))
            if not status:
                await internal_error()(scope, receive, send_with_id)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"  # a caller may invent methods, each a time series
            self._metrics.requests.labels(method, _route(scope), status).inc()


def _route(scope: Scope) -> str:
    """The route's template: paths themselves would make a time series per job."""
    return getattr(scope.get("route"), "path", "unmatched")
