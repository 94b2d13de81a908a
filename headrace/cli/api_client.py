"""The command line's way to the API: httpx, with errors a person can act on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from headrace.errors import SettingsError
from headrace.settings import load_settings

SILENCE_S = 60.0
"""The server pings an idle stream far more often: a longer silence is a dead connection."""

Url = Annotated[str | None, typer.Option(help="Where the API is; default: HEADRACE_API_URL or http://127.0.0.1:8000.")]


@contextmanager
def api(url: str | None) -> Iterator[httpx.Client]:
    """A client of the API. Every way it can fail ends the command with one line and exit code 1."""
    try:
        base_url = (url or load_settings().api_url).rstrip("/").removesuffix("/v1")
        with httpx.Client(base_url=base_url, timeout=httpx.Timeout(10.0, read=SILENCE_S)) as client:
            yield client
    except httpx.UnsupportedProtocol:
        raise fail(f"{base_url!r} is no URL of an API; write http://{base_url.partition('://')[2] or base_url}") from None
    except httpx.TransportError as error:
        raise fail(f"no answer from {base_url} ({error}); is `headrace up` running?") from None
    except httpx.InvalidURL as error:
        raise fail(f"{base_url!r} is no URL: {error}") from None
    except SettingsError as error:
        raise fail(str(error)) from None


def checked(response: httpx.Response) -> Any:
    """The JSON body; an error envelope ends the command with its message."""
    if response.is_error:
        response.read()
        raise fail(response.json()["error"]["message"] if "json" in response.headers.get("content-type", "") else response.text)
    return response.json()


def fail(message: str) -> typer.Exit:
    """Say it on standard error; raise what is returned."""
    Console(stderr=True).print(f"headrace: {message}", style="red", highlight=False, soft_wrap=True)
    return typer.Exit(1)
