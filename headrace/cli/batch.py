"""`headrace batch`: run batch files, look at batches, fetch their results."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.table import Column, Table

from headrace.batch import BATCH_ENDED, BatchStatus
from headrace.cli.api_client import Url, api, base_url_of, checked, command, fail
from headrace.cli.batch_run import INTERRUPTED, Wish, exit_code, watch
from headrace.cli.batch_run import run as run_wish
from headrace.cli.batch_view import CUT_SHORT, BatchView, progress_of
from headrace.cli.patient_api import PatientApi
from headrace.errors import HeadraceError
from headrace.files.sync import sync_file, sync_folder
from headrace.request import Endpoint

app = typer.Typer(no_args_is_help=True)

_PIPED_WIDTH = 120
"""Columns: the widest row."""

BatchId = Annotated[str, typer.Argument(help="Batch id.")]


@app.command()
def run(
    source: Annotated[str, typer.Argument(metavar="IN", help="Requests as JSONL, or prompts, one a line; - is standard input.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="File for the answers, in the order of the input.")],
    url: Annotated[
        str | None, typer.Option(help="A running server; without it, one is started for this run and stopped.", envvar="HEADRACE_API_URL")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Data folder of the server that is started, and kept; default: OUT.headrace, removed at the end.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model of lines that name none, by default the server's; a server that is started serves it (folder or .gguf file)."
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer of lines that name no limit.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, max=2.0, help="Temperature of lines that name none.")] = None,
    endpoint: Annotated[Endpoint | None, typer.Option(help="Endpoint of all lines; default: the first line's, or chat.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget (and cancel) what an earlier run has begun for OUT, and replace OUT.")
    ] = False,
) -> None:
    """Run a file of requests and write their answers. The same command goes on wherever it was stopped or killed.

    IN is JSONL in OpenAI's batch format if its first line begins with a brace; custom_id, method, url and model may be left out. Answers go
    to OUT, lines that failed to OUT's name with .errors in it. If these answer IN already, nothing is run; any other OUT that is there is
    replaced only with --restart.

    Exit codes: 0 all lines answered · 1 the batch or the server failed · 3 some lines failed · 130 interrupted, the same command goes on.
    """
    if url is not None and data_dir is not None:
        raise fail("--data-dir is for a server of its own; leave it out, or --url (and HEADRACE_API_URL)")
    wish = Wish(
        source=source,
        out=out,
        url=None if url is None else base_url_of(url),
        data_dir=data_dir,
        endpoint=endpoint,
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        restart=restart,
    )
    with _viewing("stopped before anything was begun") as view:
        code = run_wish(wish, view)
    raise typer.Exit(code)


@app.command("list")
def list_batches(limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")] = 20, url: Url = None) -> None:
    """List batches, newest first."""
    with api(url) as client:
        page = checked(client.get("/v1/batches", params={"limit": limit}))
    # An id that is cut is of no use: the others give way.
    table = Table(
        Column("batch", no_wrap=True, min_width=38), "status", "created", "lines", "failed", box=None, padding=(0, 1, 0, 0), pad_edge=False
    )
    for batch in page["data"]:
        created = datetime.fromtimestamp(batch["created_at"]).strftime("%Y-%m-%d %H:%M")
        counts = batch["request_counts"]
        failed = "–" if batch["status"] in CUT_SHORT else str(counts["failed"])
        table.add_row(batch["id"], batch["status"], created, f"{progress_of(batch)[0]}/{counts['total']}", failed)
    # A row is a line for whatever reads it from a pipe.
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)


@app.command()
def get(batch_id: BatchId, url: Url = None) -> None:
    """Show one batch as JSON."""
    with api(url) as client:
        Console(soft_wrap=True).print_json(json.dumps(checked(client.get(f"/v1/batches/{batch_id}"))))


@app.command("watch")
def watch_batch(batch_id: BatchId, url: Url = None) -> None:
    """Show a batch's progress until it ends. Exit codes as those of `run`."""
    where = base_url_of(url)
    with _viewing("the batch goes on") as view, PatientApi(lambda: where, view.say) as patient:
        batch = watch(patient, batch_id, view)
        if batch["status"] == BatchStatus.FAILED:
            view.refused(batch)
        else:
            counts = batch["request_counts"]
            view.say(f"{batch['status']}: {counts['completed']} of {counts['total']} lines answered, {progress_of(batch)[1]}")
            if batch["output_file_id"] is not None:
                view.say(f"{command(f'batch results {batch_id}', url)} fetches the answers")
            if batch["error_file_id"] is not None:
                view.say(f"{command(f'batch results {batch_id} --errors', url)} says what became of the others")
    raise typer.Exit(exit_code(batch))


@app.command()
def cancel(batch_id: BatchId, url: Url = None) -> None:
    """Cancel a batch; what is done is kept."""
    with api(url) as client:
        batch = checked(client.post(f"/v1/batches/{batch_id}/cancel"))
    fetching = command(f"batch results {batch_id}", url)
    Console().print(f"{batch['status']}; {fetching} fetches what was done", highlight=False, soft_wrap=True, markup=False)


@app.command()
def results(
    batch_id: BatchId,
    out: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT", help="File for the lines; default: standard output.")] = None,
    errors: Annotated[bool, typer.Option("--errors", help="The lines that failed instead of the answers.")] = False,
    url: Url = None,
) -> None:
    """Fetch the answers of a batch; while it runs, those from the first line to the last one without a gap."""
    told = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    with api(url) as client:
        batch = checked(client.get(f"/v1/batches/{batch_id}"))
        file_id = batch["error_file_id" if errors else "output_file_id"]
        if file_id is None:
            raise _nothing(batch, errors, url)
        with client.stream("GET", f"/v1/files/{file_id}/content") as response:
            if response.is_error:
                checked(response)
            with _sink(out) as into:
                for chunk in response.iter_raw():
                    into.write(chunk)
            if response.headers.get("x-incomplete") == "true":
                told.print(f"incomplete: the batch is {batch['status']}; {command(f'batch watch {batch_id}', url)} shows when it ends")


def _nothing(batch: dict[str, Any], errors: bool, url: str | None) -> typer.Exit:
    """There is no such file: say why."""
    batch_id, ended = batch["id"], batch["status"] in BATCH_ENDED
    if errors:
        Console(stderr=True).print("no line has failed" if ended else "no line has failed so far")
        return typer.Exit(0)
    if not ended:
        return fail(f"batch {batch_id} has no answers yet; {command(f'batch watch {batch_id}', url)} shows how far it is")
    other = "watch" if batch["status"] == BatchStatus.FAILED else "results --errors"
    return fail(f"batch {batch_id} is {batch['status']} and has no answers; {command(f'batch {other} {batch_id}', url)} says why")


@contextmanager
def _sink(out: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that appears whole."""
    if out is None:
        yield sys.stdout.buffer
        return
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as into:
            yield into
        sync_file(part)
        part.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise fail(f"cannot write {out} ({error.strerror}); choose another file with -o") from None
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _viewing(interrupted: str) -> Iterator[BatchView]:
    """What is said goes to standard error. Ctrl-C, SIGTERM and a closed terminal leave in order; what cannot go on is told in one line."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:  # not under nohup
            signal.signal(number, signal.default_int_handler)
    view = BatchView(Console(stderr=True))
    try:
        with view:
            yield view
    except HeadraceError as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        view.say(interrupted)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
