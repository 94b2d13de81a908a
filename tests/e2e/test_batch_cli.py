"""`headrace batch` with a real model: on a server that runs, and on one of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from headrace.testing.queue_environ import queue_environ
from headrace.testing.tree import Tree

PROMPTS = ["What is the capital of France?", "Count to five.", "", "Name a colour.", "What is two plus two?", "Say hello.", "Name a river."]
ASKED = [number for number, prompt in enumerate(PROMPTS, 1) if prompt]
WITHIN_S = 200.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in.txt").write_text("\n".join(PROMPTS))
    return tmp_path


def environ(folder: Path) -> dict[str, str]:
    """Of a command in `folder`, and of the server that it may start."""
    return {name: value for name, value in os.environ.items() if name != "HEADRACE_API_URL"} | queue_environ(folder)


def headrace(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "headrace", "batch", *arguments]
    return subprocess.run(command, cwd=folder, env=environ(folder), capture_output=True, text=True, timeout=WITHIN_S)


def check_answers(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == [f"line-{number}" for number in ASKED]
    assert all(line["response"]["status_code"] == 200 and line["error"] is None for line in lines)
    assert "Paris" in lines[0]["response"]["body"]["choices"][0]["message"]["content"]
    assert {path.name for path in folder.iterdir()} == {"in.txt", "out.jsonl"}


def test_on_a_server_that_runs(tree: Tree, folder: Path) -> None:
    tree.wait_until_ready()
    told = headrace(folder, "run", "in.txt", "-o", "out.jsonl", "--url", tree.url, "--max-tokens", "12", "--temperature", "0")
    assert (told.returncode, "6 of 6 lines answered: out.jsonl" in told.stderr) == (0, True), told.stderr
    check_answers(folder)

    batch_id = headrace(folder, "list", "--url", tree.url, "--limit", "1").stdout.splitlines()[1].split()[0]
    shown = json.loads(headrace(folder, "get", batch_id, "--url", tree.url).stdout)
    assert (shown["status"], shown["request_counts"]) == ("completed", {"total": 6, "completed": 6, "failed": 0})
    assert headrace(folder, "results", batch_id, "--url", tree.url).stdout == (folder / "out.jsonl").read_text()
    assert headrace(folder, "watch", batch_id, "--url", tree.url).returncode == 0


def test_an_input_with_bad_lines_is_refused(tree: Tree, folder: Path) -> None:
    tree.wait_until_ready()
    lines = ['{"body": {"messages": []}}', "no JSON", '{"body": {"messages": [{"role": "user", "content": "Hi"}], "temperature": 3}}']
    (folder / "in.txt").write_text("\n".join(lines))
    told = headrace(folder, "run", "in.txt", "-o", "out.jsonl", "--url", tree.url)
    assert told.returncode == 1
    assert [number for number in (1, 2, 3) if f"\nline {number}: " in told.stderr] == [1, 2, 3], told.stderr
    assert [path.name for path in folder.iterdir()] == ["in.txt"]


@contextmanager
def run_until_created(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run on a server of its own, as far as its batch."""
    command = [sys.executable, "-m", "headrace", "batch", "run", "in.txt", "-o", "out.jsonl", "--max-tokens", "12", "--temperature", "0"]

    def as_in_a_terminal() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell starts what runs in the background with it ignored

    with subprocess.Popen(
        command, cwd=folder, env=environ(folder), stderr=subprocess.PIPE, text=True, preexec_fn=as_in_a_terminal
    ) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if "in_progress" in line:
                    break
            assert process.poll() is None, said
            yield process
        finally:
            process.kill()


def test_a_server_of_its_own_that_cannot_start_leaves_nothing_behind(folder: Path) -> None:
    told = headrace(folder, "run", "in.txt", "-o", "out.jsonl", "--model", "nobody")
    assert (told.returncode, "its own server did not start: no model 'nobody'" in told.stderr) == (1, True)
    assert [path.name for path in folder.iterdir()] == ["in.txt"]


def test_a_run_on_its_own_server_goes_on_after_an_interrupt_and_after_kill_9(folder: Path) -> None:
    with run_until_created(folder) as first:
        family = psutil.Process(first.pid).children(recursive=True)
        first.send_signal(signal.SIGINT)
        assert first.wait(WITHIN_S) == 130
        assert family
        assert not any(process.is_running() for process in family), "it stops its server before it leaves"
    assert {path.name for path in (folder / "out.jsonl.headrace").iterdir()} == {"valkey", "files", "logs"}

    with run_until_created(folder) as second:
        second.kill()
    told = headrace(folder, "run", "in.txt", "-o", "out.jsonl", "--max-tokens", "12", "--temperature", "0")
    assert told.returncode == 0, told.stderr
    assert "going on with batch" in told.stderr
    check_answers(folder)
