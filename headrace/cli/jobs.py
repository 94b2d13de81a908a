"""`headrace jobs`: look at jobs, follow them, cancel them."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Column, Table

from headrace.cli.api_client import Url, api, checked, fail, remark
from headrace.cli.model_text import print_piece
from headrace.cli.waiting_note import WaitingNote
from headrace.client import StreamFailed, follow_job

app = typer.Typer(no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="Job id, or the id of a chat answer.")]


@app.command("list")
def list_jobs(limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")] = 20, url: Url = None) -> None:
    """List jobs, newest first. The lines of batches are not among them: see `headrace batch list`."""
    with api(url) as client:
        page = checked(client.get("/v1/jobs", params={"limit": limit}))
    # An id that is cut is of no use: the others give way.
    table = Table(Column("job", no_wrap=True, min_width=31), "status", "created", "tokens", box=None)
    for job in page["data"]:
        created = datetime.fromtimestamp(job["created_at"]).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(job["id"], job["status"], created, str(job["usage"]["completion_tokens"]))
    Console().print(table)


@app.command()
def get(job_id: JobId, url: Url = None) -> None:
    """Show one job as JSON."""
    with api(url) as client:
        _show(checked(client.get(f"/v1/jobs/{job_id}")))


@app.command()
def watch(job_id: JobId, url: Url = None) -> None:
    """Print a job's text (that of its first choice) from its beginning, as it comes."""
    finish = None
    with api(url) as client:
        try:
            for chunk in _noted(client, job_id):
                for choice in chunk["choices"]:
                    if choice["index"] == 0:
                        text = choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
                        print_piece(text)
                        finish = choice["finish_reason"]
        except StreamFailed as error:
            print_piece("\n")
            raise fail(str(error)) from None
    print_piece("\n")
    if finish == "length":
        remark("cut at its max_tokens; a larger one gives more")


def _noted(client: httpx.Client, job_id: str) -> Iterator[dict[str, Any]]:
    """The chunks of a job, and on a terminal what is waited for between two of them."""
    with WaitingNote(Console(stderr=True)) as note:
        for chunk in follow_job(client, job_id, note.waits_for):
            note.heard()
            yield chunk


@app.command()
def cancel(job_id: JobId, url: Url = None) -> None:
    """Cancel a job; what it has generated so far is kept. A job that has ended stays as it is."""
    with api(url) as client:
        job = checked(client.post(f"/v1/jobs/{job_id}/cancel"))
    Console().print("cancelling" if job["status"] == "running" else f"the job is {job['status']}")


def _show(job: dict[str, Any]) -> None:
    Console(soft_wrap=True).print_json(json.dumps(job))
