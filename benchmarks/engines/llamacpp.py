"""llama.cpp's server on a workload: python -m benchmarks.engines.llamacpp MODEL WORK --server LLAMA_SERVER --gguf FILE

Streamed over HTTP, as it is used. MODEL is not read: the weights are those of FILE. Its caches of prompts are off, as everybody's.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.engines.report import arguments_of, peak_memory_mb, report
from benchmarks.item import Item, read_items
from benchmarks.recording import Figures, Recording

MAX_SLOTS = 64
LEAST_CONTEXT = 512
"""Tokens of a slot; more where an item needs more. A larger one makes the server slower."""
START_LIMIT_S = 300.0


@contextmanager
def serving(arguments: argparse.Namespace, items: Sequence[Item]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server with a slot for each item, as far as there are any. Yields its process and address."""
    slots = min(MAX_SLOTS, len(items))
    context = max(LEAST_CONTEXT, *(len(item.prompt_ids) + item.max_tokens + 8 for item in items))
    threads, port = str(arguments.threads), _free_port()
    command = [arguments.server, "-m", str(arguments.gguf), "--port", str(port), "-np", str(slots), "-c", str(slots * context)]
    command += ["-t", threads, "-tb", threads, "-b", "2048", "-ub", "512", "--cache-ram", "0", "--no-webui"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            yield server, f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


async def run(client: httpx.AsyncClient, items: Sequence[Item]) -> Recording:
    recording = Recording(items)

    async def stream(index: int, item: Item) -> None:
        sampling = {"n_predict": item.max_tokens, "temperature": 0, "ignore_eos": True}
        body = {"prompt": item.prompt_ids, "cache_prompt": False, "stream": True, **sampling}
        seen = 0
        async with client.stream("POST", "/completion", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                event = json.loads(line.removeprefix("data:"))
                if "tokens_predicted" not in event:
                    raise RuntimeError(f"llama.cpp's server gave up request {index}: {line}")
                # Counted by what the event says: a token that ends within a character comes with the next one.
                recording.note(index, event["tokens_predicted"] - seen)
                seen = event["tokens_predicted"]

    async with asyncio.TaskGroup() as group:
        for index, item in enumerate(items):
            group.create_task(stream(index, item))
    return recording


async def measure(server: subprocess.Popen[bytes], address: str, items: Sequence[Item]) -> Figures:
    # None is kept alive: the server ends those that were idle for a few seconds, at times just as the next request goes out.
    limits = httpx.Limits(max_connections=len(items), max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=address, timeout=None, limits=limits, trust_env=False) as client:
        await _ready(server, client)
        await run(client, items)
        return (await run(client, items)).figures()


async def _ready(server: subprocess.Popen[bytes], client: httpx.AsyncClient) -> None:
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until:
        if server.poll() is not None:
            raise RuntimeError(f"llama.cpp's server ended with {server.returncode} before it was ready")
        try:
            if (await client.get("/health")).is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        await asyncio.sleep(0.2)
    raise RuntimeError(f"llama.cpp's server was not ready within {START_LIMIT_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _version(server: str) -> str:
    said = subprocess.run([server, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
    return next((line.removeprefix("version:").strip() for line in said.splitlines() if line.startswith("version:")), said.strip())


def main() -> None:
    parser = arguments_of("benchmarks.engines.llamacpp", __doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    items = read_items(arguments.work)
    with serving(arguments, items) as (server, address):
        figures = asyncio.run(measure(server, address, items))
        memory = peak_memory_mb(server.pid)
    report(figures, version=_version(arguments.server), peak_memory_mb=memory)


if __name__ == "__main__":
    main()
