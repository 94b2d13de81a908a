"""The command line's way to the API: httpx, with errors a person can act on."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from headrace.errors import SettingsError
from headrace.keys import is_key
from headrace.settings import load_settings

SILENCE_S = 60.0
"""The server pings an idle stream far more often: a longer silence is a dead connection."""

Url = Annotated[str | None, typer.Option(help="Where the API is; default: HEADRACE_API_URL or http://127.0.0.1:8000.")]


@contextmanager
def api(url: str | None) -> Iterator[httpx.Client]:
    """A client of the API. Every way it can fail ends the command with one line and exit code 1."""
    base_url = base_url_of(url)
    try:
        with httpx.Client(base_url=base_url, timeout=httpx.Timeout(10.0, read=SILENCE_S), headers=key_header()) as client:
            yield client
    except SettingsError as error:
        raise fail(str(error)) from None
    except httpx.TransportError as error:
        raise fail(f"no answer from {base_url} ({error}); is `headrace up` running?") from None


def base_url_of(url: str | None) -> str:
    """Where the API is, without /v1. What is no URL ends the command."""
    try:
        base_url = (url or load_settings().api_url).rstrip("/").removesuffix("/v1")
        parsed = httpx.URL(base_url)
    except SettingsError as error:
        raise fail(str(error)) from None
    except httpx.InvalidURL as error:
        raise fail(f"{url or 'HEADRACE_API_URL'!r} is no URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise fail(f"{base_url!r} is no URL of an API; write http://{base_url.partition('://')[2] or base_url}")
    return base_url


def key_header() -> dict[str, str]:
    """What says who calls, if a key is set. Raises SettingsError."""
    setting = load_settings().api_key
    if setting is None:
        return {}
    key = setting.get_secret_value()
    if not is_key(key):
        raise SettingsError("HEADRACE_API_KEY is no key: one has 1 to 256 letters, digits and -._~+/=")
    return {"authorization": f"Bearer {key}"}


def checked(response: httpx.Response) -> Any:
    """The JSON body; an error envelope ends the command with its message."""
    if response.is_error:
        response.read()
        raise fail(message_of(response))
    return response.json()


def message_of(response: httpx.Response) -> str:
    """What an error says, the body having been read. Ours come in the envelope; a proxy in between answers as it likes."""
    try:
        error = response.json()["error"]
        said, known = str(error["message"]), error.get("code") != "not_found"
    except (ValueError, KeyError, TypeError, AttributeError):
        said = f"status {response.status_code}: {response.text[:200]}" if response.text else f"status {response.status_code}"
        known = False
    # An unknown id has a code of its own: here the path leads nowhere.
    return f"{said}; is the URL right?" if response.status_code == 404 and not known else said


def command(words: str, url: str | None) -> str:
    """A command to copy, of the same API: `url` as it was given."""
    return f"`headrace {words}{'' if url is None else f' --url {shlex.quote(url)}'}`"


def remark(message: str) -> None:
    """Beside the output, which may go to a file."""
    Console(stderr=True).print(message, style="dim", highlight=False, soft_wrap=True, markup=False)


def fail(message: str) -> typer.Exit:
    """Say it on standard error; raise what is returned."""
    Console(stderr=True).print(f"headrace: {message}", style="red", highlight=False, soft_wrap=True, markup=False)
    return typer.Exit(1)
