"""Who calls, and whether he may."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace.keys import ANYBODY, bearer_key
from headrace.keys_file import KeysFile
from producer_api.envelope import HttpError, error_response

OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})
"""What is answered without a key: whoever watches the process is no tenant."""


class Gate:
    """Stands before the routes, not on them: a route of tomorrow, a path that does not exist and the documentation need a key too."""

    def __init__(self, app: ASGIApp, keys: KeysFile | None) -> None:
        """Without `keys` everybody is let in as one tenant."""
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                tenant = ANYBODY if self._keys is None else _identify(self._keys, Headers(scope=scope))
            except HttpError as refusal:
                await error_response(refusal)(scope, receive, send)
                return
            scope.setdefault("state", {})["tenant"] = tenant
        await self._app(scope, receive, send)


def _identify(keys: KeysFile, headers: Headers) -> str:
    """The tenant whose key the call carries. Raises 401."""
    given = headers.get("authorization")
    if given is None:
        raise _refused("No API key was given: send it as 'Authorization: Bearer <key>'.")
    key = bearer_key(given)
    if key is None:
        raise _refused("The 'Authorization' header must be 'Bearer <key>'.")
    tenant = keys.tenant_of(key)
    if tenant is None:
        raise _refused("The API key is not known here.")
    return tenant


def _refused(message: str) -> HttpError:
    return HttpError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _tenant(request: Request) -> str:
    tenant: str = request.state.tenant
    return tenant


Tenant = Annotated[str, Depends(_tenant)]
"""On whose behalf a request runs; every call of the queue names it."""
