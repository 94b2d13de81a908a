"""`headrace chat`: talk to the model in the terminal."""

import sys
from contextlib import suppress
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from headrace.cli.api_client import Url, api, checked, fail, remark
from headrace.cli.model_text import print_piece
from headrace.cli.waiting_note import WaitingNote
from headrace.client import StreamFailed, stream_chat

STOPPED = 130
"""What a shell says of a command that Ctrl-C ended."""


def chat(
    prompt: Annotated[str | None, typer.Argument(help="Ask this and leave; without it, a conversation.")] = None,
    url: Url = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 always gives the likeliest answer.")] = 0.0,
) -> None:
    """Talk to the model. An answer goes on where it was when the connection, the server or the engine is lost.

    A server that stays away for two minutes is given up.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        with api(url) as client:
            models = checked(client.get("/v1/models"))["data"]
            if not models:
                raise fail("no model is loaded yet; /ready says why")
            model = models[0]["id"]
            options: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
            if prompt is not None:
                if not prompt.strip():
                    raise fail("the prompt is empty")
                _answer(console, client, options, [{"role": "user", "content": prompt}])
                return
            if console.is_terminal:
                console.print(f"{model}: Ctrl-D leaves, Ctrl-C stops an answer.", style="dim")
            _converse(console, client, options)
    except KeyboardInterrupt:
        raise typer.Exit(STOPPED) from None


def _converse(console: Console, client: httpx.Client, options: dict[str, Any]) -> None:
    """Raises KeyboardInterrupt for a Ctrl-C at the prompt."""
    messages: list[dict[str, str]] = []
    while True:
        try:
            text = console.input("[bold]> [/bold]" if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt) as end:
            console.print()
            if isinstance(end, KeyboardInterrupt):
                raise
            return
        if not text:
            continue
        text = text.encode(errors="replace").decode()  # a pipe may bring bytes that are no text
        messages.append({"role": "user", "content": text})
        with suppress(KeyboardInterrupt):
            _answer(console, client, options, messages)


def _answer(console: Console, client: httpx.Client, options: dict[str, Any], messages: list[dict[str, str]]) -> None:
    """Print the answer as it comes, and add what was said to `messages`. Raises KeyboardInterrupt once a Ctrl-C has cancelled it."""
    said: list[str] = []
    job_id, finish = "", None
    try:
        with WaitingNote(Console(stderr=True)) as note:
            for chunk in stream_chat(client, {**options, "messages": messages}, note.waits_for):
                job_id = chunk["id"]
                note.heard()
                for choice in chunk["choices"]:
                    text = choice["delta"].get("content") or ""
                    said.append(text)
                    finish = choice["finish_reason"]
                    print_piece(text)
    except KeyboardInterrupt:
        if job_id:
            with suppress(httpx.TransportError):  # it is cancelled anyway, as nobody comes back
                client.post(f"/v1/jobs/{job_id}/cancel")
        raise
    except StreamFailed as error:
        raise fail(str(error)) from None
    finally:
        console.print()
        messages.append({"role": "assistant", "content": "".join(said)})
    if finish == "length":
        remark(f"cut at {options['max_tokens']} tokens; --max-tokens for more")
