"""The two-minute tour: start everything, stream an answer, run fifty jobs, kill the engine in the middle of a sentence, and again in the
middle of a batch file: `make demo`."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
from openai import OpenAI
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from headrace.client import DONE, lines_of, parse_events
from headrace.cursor import parse_cursor

PROMPTS = Path(__file__).with_name("prompts.txt")
JOB_TOKENS = 40
STORY_TOKENS = 160
KILL_AFTER = 24
KILL_BATCH_AFTER = 15
START_WITHIN_S = 150
POLL_S = 0.2

console = Console(highlight=False, soft_wrap=True)


@dataclass
class Tally:
    """What the summary shows."""

    requests: int = 0
    tokens: int = 0
    first_token_s: float = 0.0
    jobs_s: float = 0.0
    jobs_tokens: int = 0
    recovery_s: float = 0.0
    batch_lines: int = 0
    batch_s: float = 0.0


class DemoFailed(Exception):
    """Something did not go as promised."""


def expect(holds: bool, promise: str) -> None:
    if not holds:
        raise DemoFailed(promise)
    console.print(f"  [green]✓[/green] {promise}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def headrace_up(data_dir: Path) -> Iterator[str]:
    """`headrace up` as a user would start it; its URL once it is ready. Stopped at the end, however that comes."""
    port = free_port()
    command = [sys.executable, "-m", "headrace", "up", "--port", str(port), "--data-dir", str(data_dir)]
    console.print(f"[bold]$ headrace up --port {port}[/bold]")
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(server, url)
        yield url
    finally:
        server.terminate()
        code = server.wait(timeout=60)
    expect(code == 0, "everything stopped by itself")


def wait_until_ready(server: "subprocess.Popen[bytes]", url: str) -> None:
    give_up_at = time.monotonic() + START_WITHIN_S
    while time.monotonic() < give_up_at:
        if server.poll() is not None:
            raise DemoFailed("headrace up ended before it was ready")
        try:
            if httpx.get(f"{url}/ready").is_success and httpx.get(f"{url}/health").json()["workers"]:
                return
        except httpx.TransportError:
            pass  # nobody listens yet
        time.sleep(POLL_S)
    raise DemoFailed(f"not ready within {START_WITHIN_S} s")


def stream_an_answer(client: OpenAI, model: str, tally: Tally) -> None:
    question = "What is the capital of France?"
    console.print(f"\n[bold]1. A stream, through the official client[/bold]\n  {question} ", end="")
    asked = time.monotonic()
    text = ""
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=32,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        piece = (chunk.choices[0].delta.content or "") if chunk.choices else ""
        if piece and not text:
            tally.first_token_s = time.monotonic() - asked
        text += piece
        tally.tokens += chunk.usage.completion_tokens if chunk.usage else 0
        console.print(piece, end="", style="cyan")
    tally.requests += 1
    console.print()
    expect("Paris" in text, "the answer names Paris")


def run_jobs(http: httpx.Client, model: str, tally: Tally) -> None:
    prompts = PROMPTS.read_text().splitlines()
    console.print(f"\n[bold]2. {len(prompts)} jobs: submit, go away, come back[/bold]")
    started = time.monotonic()
    ids = [submit(http, model, prompt) for prompt in prompts]
    waiting = set(ids)
    columns = (TextColumn("  jobs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("jobs", total=len(ids), speed="")
        while waiting:
            jobs = http.get("/v1/jobs", params={"limit": 100}).raise_for_status().json()["data"]
            mine = [job for job in jobs if job["id"] in ids]
            waiting = {job["id"] for job in mine if job["status"] in ("queued", "delayed", "running")}
            tokens = sum(job["usage"]["completion_tokens"] for job in mine)
            speed = f"{tokens / (time.monotonic() - started):.0f} tokens/s"
            progress.update(bar, completed=len(ids) - len(waiting), speed=speed)
            time.sleep(POLL_S)
    tally.jobs_s = time.monotonic() - started
    tally.jobs_tokens = tokens
    tally.tokens += tokens
    tally.requests += len(ids)
    expect(all(job["status"] == "done" for job in mine) and len(mine) == len(ids), "every job is done")


def submit(http: httpx.Client, model: str, prompt: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": JOB_TOKENS, "temperature": 0}
    answer = http.post("/v1/jobs", json=body).raise_for_status()
    job_id: str = answer.json()["id"]
    return job_id


def kill_in_mid_sentence(http: httpx.Client, model: str, tally: Tally) -> None:
    console.print("\n[bold]3. kill -9 the engine in the middle of a sentence[/bold]")
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Tell me a long story about an old water mill."}],
        "max_tokens": STORY_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    cursors, text, job_id, killed_at = [], "", "", 0.0
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        for event in parse_events(lines_of(response.raise_for_status().iter_bytes())):
            cursors.append(parse_cursor(event.id, param="id"))
            if event.data == DONE:
                break
            chunk = httpx.Response(200, content=event.data).json()
            if "error" in chunk:
                raise DemoFailed(f"the stream ended in an error: {chunk['error']['message']}")
            job_id = chunk["id"].removeprefix("chatcmpl-")
            piece = chunk["choices"][0]["delta"].get("content") or ""
            if killed_at and not tally.recovery_s and cursors[-1].epoch > cursors[-2].epoch:
                tally.recovery_s = time.monotonic() - killed_at
            text += piece
            console.print(piece, end="", style="cyan")
            if len(cursors) == KILL_AFTER:
                console.print()
                kill_engine(http)
                killed_at = time.monotonic()
    console.print()
    job = http.get(f"/v1/jobs/{job_id}").raise_for_status().json()
    tally.requests += 1
    tally.tokens += job["usage"]["completion_tokens"]
    expect(cursors[-1].epoch > 1, "another engine process finished it")
    expect(cursors == sorted(set(cursors)), "every event came once and in order")
    expect(text == job["output_text"], "the text is the job's result, with no gap and no repetition")


def run_a_batch(client: OpenAI, http: httpx.Client, model: str, tally: Tally) -> None:
    prompts = PROMPTS.read_text().splitlines()
    console.print(f"\n[bold]4. A batch file of {len(prompts)} lines, through the official client, and kill -9 in the middle[/bold]")
    lines = [batch_line(number, model, prompt) for number, prompt in enumerate(prompts, 1)]
    started = time.monotonic()
    file = client.files.create(file=("prompts.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    killed = False
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("lines"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(batch.status, total=len(lines))
        while batch.status not in ("completed", "failed", "expired", "cancelled"):
            time.sleep(POLL_S)
            batch = client.batches.retrieve(batch.id)
            done = batch.request_counts.completed if batch.request_counts else 0
            progress.update(bar, description=batch.status, completed=done)
            if done >= KILL_BATCH_AFTER and not killed:
                killed = True
                kill_engine(http)
    tally.batch_s = time.monotonic() - started
    tally.batch_lines = len(lines)
    expect(batch.status == "completed" and killed, "the batch is completed, and its engine was killed on the way")
    results = [json.loads(line) for line in client.files.content(batch.output_file_id or "").text.splitlines()]
    names = [line["custom_id"] for line in lines]
    expect([result["custom_id"] for result in results] == names, "the output has every line once, in the order of the input")
    tally.requests += len(results)
    tally.tokens += sum(result["response"]["body"]["usage"]["completion_tokens"] for result in results)


def batch_line(number: int, model: str, prompt: str) -> dict[str, Any]:
    # Answers of different lengths: they do not all end at once, so there is a middle to kill the engine in.
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8 + number, "temperature": 0}
    return {"custom_id": f"prompt-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def kill_engine(http: httpx.Client) -> None:
    pid = http.get("/health").json()["workers"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    console.print(f"  [bold red]✂ kill -9 {pid}[/bold red]")


def summarise(tally: Tally) -> None:
    table = Table(title="What just happened", show_header=False)
    table.add_row("requests", str(tally.requests))
    table.add_row("tokens", str(tally.tokens))
    table.add_row("time to first token", f"{tally.first_token_s * 1_000:.0f} ms")
    table.add_row("jobs", f"{tally.jobs_tokens / tally.jobs_s:.0f} tokens/s")
    table.add_row("recovery after kill -9", f"{tally.recovery_s:.1f} s until the next token")
    table.add_row("batch lines/s", f"{tally.batch_lines / tally.batch_s:.1f}")
    console.print()
    console.print(table)


def leave(number: int, _frame: object) -> NoReturn:
    """Stop the server and remove its data on the way out, once: the second signal of a whole process group must not cut that short."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    signal.signal(signal.SIGTERM, leave)
    tally = Tally()
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-demo-") as folder, headrace_up(Path(folder)) as url:
            client = OpenAI(base_url=f"{url}/v1", api_key="unused")
            model = client.models.list().data[0].id
            with httpx.Client(base_url=url, timeout=httpx.Timeout(10, read=60)) as http:
                stream_an_answer(client, model, tally)
                run_jobs(http, model, tally)
                kill_in_mid_sentence(http, model, tally)
                run_a_batch(client, http, model, tally)
    except DemoFailed as failure:
        console.print(f"\n[bold red]The demo failed:[/bold red] {failure}")
        return 1
    summarise(tally)
    return 0


if __name__ == "__main__":
    sys.exit(main())
