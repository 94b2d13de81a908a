"""The `headrace` command."""

import asyncio
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from headrace.architectures import paged_architecture
from headrace.capabilities import check_installed, runs_paged
from headrace.cli import batch, jobs, kafka, keys
from headrace.cli import chat as chat_command
from headrace.cli.api_client import fail
from headrace.cli.settings_table import settings_list, settings_table
from headrace.errors import HeadraceError
from headrace.kafka.grants import read_grants
from headrace.keys import reaches_others, read_keys
from headrace.model_folder import ModelFolder, find_source, read_config
from headrace.settings import load_settings
from headrace.supervise import stop_with_parent

UP_STOPS_WITHIN_S = 60.0
"""More than all its children together may take."""

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Queue-driven asynchronous inference for language models.")
app.add_typer(jobs.app, name="jobs", help="Look at jobs, follow them, cancel them.")
app.add_typer(batch.app, name="batch", help="Run batch files, look at batches, fetch their results.")
app.add_typer(keys.app, name="keys", help="Make keys of the API.")
app.add_typer(kafka.app, name="kafka", help="Make the topics in Kafka.")
app.command("chat")(chat_command.chat)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"headrace {version('headrace')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")] = False,
) -> None:
    """Queue-driven asynchronous inference for language models."""


Model = Annotated[str | None, typer.Option(help="Hugging Face folder, .gguf file, or smollm2-135m-instruct.", envvar="HEADRACE_MODEL")]


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="HEADRACE_HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.", envvar="HEADRACE_PORT")] = 8000,
    data_dir: Annotated[Path, typer.Option(help="Folder for the queue's data, the files of batches and the logs.")] = Path("headrace-data"),
    model: Model = None,
    redis_url: Annotated[
        str | None, typer.Option(help="An existing Redis or Valkey instead of the embedded one.", envvar="HEADRACE_REDIS_URL")
    ] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True, help="Stop when the parent process does.")] = False,
) -> None:
    """Start everything in one process tree: queue, API, worker, clerk, scheduler. Ctrl-C stops it; nothing accepted is lost.

    All else is set by HEADRACE_* variables: see `headrace settings`. HEADRACE_KEYS_FILE names the keys it takes; other commands send
    HEADRACE_API_KEY.
    """
    from headrace.cli.up import Plan
    from headrace.cli.up import up as run_up
    from headrace.queues.server import check_url

    if supervised:
        stop_with_parent(UP_STOPS_WITHIN_S)
    if model is not None:
        os.environ["HEADRACE_MODEL"] = model
    try:
        # What the children would refuse is refused here, before anything starts.
        settings = load_settings()
        check_installed(settings.engine)
        source = find_source(settings.model)
        if source.is_dir():
            ModelFolder.read(source, max_context=settings.max_context)
            if runs_paged(settings.engine):
                paged_architecture(read_config(source), source / "config.json")
        if redis_url is not None:
            check_url(redis_url, "--redis-url (HEADRACE_REDIS_URL)")
        if settings.rq_url is not None:
            check_url(settings.rq_url, "HEADRACE_RQ_URL")
        if settings.keys_file is not None:
            read_keys(settings.keys_file)
        read_grants(settings.kafka_batch_topics or "", settings.kafka_prefix)
        plan = Plan(
            host=host, port=port, data_dir=data_dir.resolve(), redis_url=redis_url, model=settings.served_model, environ=dict(os.environ)
        )
        console = Console()
        if settings.keys_file is None and reaches_others(host):
            console.print(f"Whoever reaches {host} may do everything here: no HEADRACE_KEYS_FILE is set.", style="yellow", highlight=False)
        asyncio.run(run_up(plan, console))
    except HeadraceError as error:
        raise fail(str(error)) from None


def _become(package: str) -> None:
    """Run one process in place of this one, so that signals reach it directly."""
    os.execv(sys.executable, [sys.executable, "-m", package])  # noqa: S606 - our own command, no shell


@app.command()
def api() -> None:
    """Run the API alone. Settings come from HEADRACE_* variables: see `headrace settings`."""
    _become("producer_api")


@app.command()
def worker() -> None:
    """Run a worker alone: a supervisor and its engine process. Settings come from HEADRACE_* variables: see `headrace settings`."""
    _become("workers")


@app.command()
def scheduler() -> None:
    """Run the scheduler alone. Settings come from HEADRACE_* variables: see `headrace settings`."""
    _become("scheduler")


@app.command()
def clerk() -> None:
    """Run a clerk alone: it validates batch files, runs their lines, writes their results.

    Settings come from HEADRACE_* variables: see `headrace settings`.
    """
    _become("scheduler.batches")


@app.command("settings")
def list_settings() -> None:
    """List every setting with its default: as a Markdown table where the output is no terminal."""
    console = Console()
    typer.echo(settings_list(console.width) if console.is_terminal else settings_table())
