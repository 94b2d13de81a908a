"""A large batch on an engine that computes nothing: what everything around the engine costs in time and memory.

    python -m benchmarks.batch --lines 50000 --line-bytes 4096

Starts a `headrace up` of its own on the scripted engine, sends the file through /v1/files and /v1/batches, samples the memory of every
process, and checks the output file. --kill: kill -9 of every process of the tree half-way, and the tree started again.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import psutil

from benchmarks.arguments import parser_of
from headrace.model_folder import DEMO_MODEL

ENDED = ("completed", "failed", "expired", "cancelled")
POLL_S = 0.5
READY_WITHIN_S = 150.0
WORDS = ("mill", "wheel", "water", "race", "stone", "flour", "grain", "river", "dam", "sluice", "gate", "turn", "grind", "pour", "night")


@dataclass
class Memory:
    """Resident megabytes by process, at the start of the batch and at their highest."""

    first: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)

    def sample(self, tree: psutil.Process) -> None:
        for process in tree.children(recursive=True):
            try:
                name, size = _name(process.cmdline()), process.memory_info().rss / 1e6
            except psutil.NoSuchProcess:
                continue
            self.first.setdefault(name, size)
            self.most[name] = max(size, self.most.get(name, 0.0))


def _name(command: list[str]) -> str:
    words = [Path(part).name for part in command]
    if "engine" in words:
        return "engine (scripted)"
    return words[words.index("-m") + 1] if "-m" in words else words[0].split(":")[0]


def write_input(path: Path, lines: int, line_bytes: int) -> None:
    rng = random.Random(7)
    with path.open("wb") as file:
        for number in range(lines):
            text = ""
            while len(text) < line_bytes - 230:
                text += rng.choice(WORDS) + " "
            body = {"model": DEMO_MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0}
            line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(orjson.dumps(line) + b"\n")


@contextmanager
def running(port: int, data_dir: Path) -> Iterator[psutil.Process]:
    environment = {**os.environ, "HEADRACE_ENGINE": "scripted", "HEADRACE_LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "headrace", "up", "--port", str(port), "--data-dir", str(data_dir)]
    server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until_ready(port)
        yield psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_until_ready(port: int) -> None:
    give_up_at = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < give_up_at:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ready").is_success:
                return
        except httpx.TransportError:
            pass  # nobody listens yet
        time.sleep(POLL_S)
    raise TimeoutError("the server did not become ready")


def kill_all(tree: psutil.Process) -> None:
    for process in [tree, *tree.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def follow(port: int, batch_id: str, tree: psutil.Process, memory: Memory, until: int | None = None) -> dict[str, object]:
    """Sample until the batch has ended, or `until` lines are done."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        while True:
            memory.sample(tree)
            batch: dict[str, object] = client.get(f"/v1/batches/{batch_id}").raise_for_status().json()
            counts = batch["request_counts"]
            assert isinstance(counts, dict)
            if batch["status"] in ENDED or (until is not None and counts["completed"] >= until):
                return batch
            time.sleep(POLL_S)


def submit(port: int, path: Path) -> tuple[str, float]:
    """The batch's id and the seconds the upload took."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client, path.open("rb") as file:
        started = time.monotonic()
        uploaded = client.post("/v1/files", files={"file": ("input.jsonl", file)}, data={"purpose": "batch"}).raise_for_status().json()
        took = time.monotonic() - started
        body = {"input_file_id": uploaded["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch_id: str = client.post("/v1/batches", json=body).raise_for_status().json()["id"]
        return batch_id, took


def check(port: int, batch: dict[str, object], lines: int) -> None:
    """Every line once, in order. Raises AssertionError."""
    number = 0
    with httpx.stream("GET", f"http://127.0.0.1:{port}/v1/files/{batch['output_file_id']}/content", timeout=300) as response:
        for number, line in enumerate(response.iter_lines(), 1):
            assert orjson.loads(line)["custom_id"] == f"line-{number - 1}"
    assert number == lines, f"{number} of {lines} lines"


def main() -> None:
    parser = parser_of("benchmarks.batch", __doc__)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--line-bytes", type=int, default=4_096)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--port", type=int, default=8_321)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-batch-") as folder:
        path, memory = Path(folder) / "input.jsonl", Memory()
        write_input(path, arguments.lines, arguments.line_bytes)
        size = path.stat().st_size / 1e6
        data_dir = Path(folder) / "data"
        with running(arguments.port, data_dir) as tree:
            memory.sample(tree)
            started = time.monotonic()
            batch_id, upload_s = submit(arguments.port, path)
            batch = follow(arguments.port, batch_id, tree, memory, until=arguments.lines // 2 if arguments.kill else None)
            if arguments.kill:
                print(f"kill -9 of everything at {batch['request_counts']}")
                kill_all(tree)
            else:
                check(arguments.port, batch, arguments.lines)
        if arguments.kill:
            with running(arguments.port, data_dir) as tree:
                batch = follow(arguments.port, batch_id, tree, memory)
                check(arguments.port, batch, arguments.lines)
        took = time.monotonic() - started
        report(batch, size, upload_s, took, memory, arguments.lines)


def report(batch: dict[str, object], size: float, upload_s: float, took: float, memory: Memory, lines: int) -> None:
    validated_s = int(str(batch["in_progress_at"])) - int(str(batch["created_at"]))
    print(f"{batch['status']}: {lines} lines, {size:.0f} MB, counts {batch['request_counts']}")
    print(
        f"upload {upload_s:.1f} s ({size / upload_s:.0f} MB/s), validation {validated_s} s, in all {took:.0f} s, {lines / took:.0f} lines/s"
    )
    for name, first in memory.first.items():
        print(f"  {name:<22} {first:6.0f} MB at first, {memory.most[name]:6.0f} MB at most, +{memory.most[name] - first:.0f} MB")


if __name__ == "__main__":
    main()
