"""`headrace chat`: talk to the model in the terminal."""

import sys
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from headrace.cli.api_client import Url, api, checked, fail
from headrace.cli.waiting_note import WaitingNote
from headrace.client import StreamFailed, stream_chat


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


def _converse(console: Console, client: httpx.Client, options: dict[str, Any]) -> None:
    messages: list[dict[str, str]] = []
    while True:
        try:
            text = console.input("[bold]> [/bold]" if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not text:
            continue
        text = text.encode(errors="replace").decode()  # a pipe may bring bytes that are no text
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": _answer(console, client, options, messages)})


def _answer(console: Console, client: httpx.Client, options: dict[str, Any], messages: list[dict[str, str]]) -> str:
    """Print the answer as it comes; Ctrl-C cancels it. Returns what was said."""
    said: list[str] = []
    job_id = ""
    try:
        with WaitingNote(Console(stderr=True)) as note:
            for chunk in stream_chat(client, {**options, "messages": messages}, note.waits_for):
                job_id = chunk["id"]
                note.heard()
                for choice in chunk["choices"]:
                    text = choice["delta"].get("content") or ""
                    said.append(text)
                    console.print(text, end="", markup=False)
    except KeyboardInterrupt:
        if job_id:
            client.post(f"/v1/jobs/{job_id}/cancel")
    except StreamFailed as error:
        console.print()
        raise fail(str(error)) from None
    console.print()
    return "".join(said)
