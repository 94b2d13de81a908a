"""`headrace batch run` beside others on the same file, start-up included:

    python -m benchmarks.run_batch --lines 200 --tokens 32 --transformers

Each runs in a process of its own, one after the other. `--vllm` names the python of an environment that has vLLM.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from benchmarks.arguments import parser_of
from headrace.model_folder import DEMO_MODEL
from headrace.settings import load_settings
from workers.convert import ensure_folder

PROMPTS = Path(__file__).parents[1] / "examples" / "prompts.txt"


def write_input(path: Path, lines: int, tokens: int) -> None:
    prompts = PROMPTS.read_text().splitlines()
    with path.open("wb") as file:
        for number in range(lines):
            body = {
                "model": DEMO_MODEL,
                "messages": [{"role": "user", "content": f"{prompts[number % len(prompts)]} (Version {number}.)"}],
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
            }
            line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(orjson.dumps(line) + b"\n")


def timed(command: Sequence[str], environ: Mapping[str, str] | None = None) -> float:
    """Wall seconds. Raises RuntimeError, with what the command said last."""
    started = time.monotonic()
    done = subprocess.run(command, env={**os.environ, **(environ or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2_000:].decode(errors='replace')}")
    return time.monotonic() - started


def main() -> None:
    parser = parser_of("benchmarks.run_batch", __doc__)
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--vllm")
    parser.add_argument("--transformers", action="store_true")
    arguments = parser.parse_args()
    folder = str(ensure_folder(DEMO_MODEL, load_settings().cache_dir))
    with tempfile.TemporaryDirectory(prefix="headrace-run-batch-") as name:
        source = Path(name) / "in.jsonl"
        write_input(source, arguments.lines, arguments.tokens)

        def out(who: str) -> Path:
            return Path(name) / f"{who}.jsonl"

        commands: dict[str, tuple[Path, list[str], dict[str, str]]] = {
            "headrace batch run": (out("headrace"), [sys.executable, "-m", "headrace", "batch", "run", str(source), "-o"], {})
        }
        if arguments.transformers:
            peer = [sys.executable, "-m", "benchmarks.peer_transformers_batch", folder, str(source)]
            commands["transformers, a script"] = (out("transformers"), peer, {})
        if arguments.vllm:
            options = ["--model", folder, "--served-model-name", DEMO_MODEL, "--dtype", "float32", "--max-model-len", "2048"]
            peer = [arguments.vllm, "-m", "vllm.entrypoints.openai.run_batch", *options, "-i", str(source), "-o"]
            commands["vllm run-batch"] = (out("vllm"), peer, {"VLLM_CPU_KVCACHE_SPACE": "4"})
        first = 0.0
        for who, (path, command, environ) in commands.items():
            seconds = timed([*command, str(path)], environ)
            written = len(path.read_bytes().splitlines())
            first = first or seconds
            print(f"{who:<24} {seconds:7.1f} s  {written} lines  {seconds / first:.2f} times ours", flush=True)


if __name__ == "__main__":
    main()
