"""The `headrace` command."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from headrace.cli import chat as chat_command
from headrace.cli import jobs
from headrace.cli.settings_table import settings_table
from headrace.errors import HeadraceError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Queue-driven asynchronous inference for language models.")
app.add_typer(jobs.app, name="jobs", help="Look at jobs, follow them, cancel them.")
app.command("chat")(chat_command.chat)

Model = Annotated[str | None, typer.Option(help="Hugging Face folder, .gguf file, or smollm2-135m-instruct.")]


def fail(error: HeadraceError) -> typer.Exit:
    Console(stderr=True).print(f"headrace: {error}", style="red", highlight=False, soft_wrap=True)
    return typer.Exit(1)


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 8000,
    data_dir: Annotated[Path, typer.Option(help="Folder for the queue's data and the logs.")] = Path("headrace-data"),
    model: Model = None,
    redis_url: Annotated[str | None, typer.Option(help="An existing Redis or Valkey instead of the embedded one.")] = None,
) -> None:
    """Start everything in one process tree: queue, API, worker, scheduler. Ctrl-C stops it; nothing accepted is lost."""
    from headrace.cli.up import Plan
    from headrace.cli.up import up as run_up

    environ = dict(os.environ)
    if model is not None:
        environ["HEADRACE_MODEL"] = model
    plan = Plan(host=host, port=port, data_dir=data_dir.resolve(), redis_url=redis_url, environ=environ)
    try:
        asyncio.run(run_up(plan, Console()))
    except HeadraceError as error:
        raise fail(error) from None


def _become(package: str) -> None:
    """Run one process in place of this one, so that signals reach it directly."""
    os.execv(sys.executable, [sys.executable, "-m", package])  # noqa: S606 - our own command, no shell


@app.command()
def api() -> None:
    """Run the API alone. Settings come from HEADRACE_* variables (docs/settings.md)."""
    _become("producer_api")


@app.command()
def worker() -> None:
    """Run a worker alone: a supervisor and its engine process."""
    _become("workers")


@app.command()
def scheduler() -> None:
    """Run the scheduler alone."""
    _become("scheduler")


@app.command()
def settings() -> None:
    """List every setting with its default, as Markdown."""
    typer.echo(settings_table())
