"""Keys from the command line to the API's process."""

import asyncio
import os
import re
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from headrace.files.folder import FolderBlobs
from headrace.ids import new_batch_id
from headrace.keys import Keys, key_line, parse_keys
from headrace.registries.connect import connect
from headrace.settings import Settings
from headrace.supervise import EX_CONFIG
from headrace.testing.listening import listening
from headrace.testing.queue.memory import MemoryQueue
from headrace.testing.scripted_worker import PANGRAM, ScriptedWorker
from headrace.testing.store import Store
from headrace.testing.tree import free_port
from headrace.testing.words import WordPrompter
from producer_api.app import create_app
from producer_api.archive import Archive
from producer_api.catalog import Catalog
from producer_api.server import Server

MODEL = "test-model"


def headrace(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "headrace", *arguments]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60)


def test_a_new_key_goes_with_its_line() -> None:
    told = headrace("keys", "new", "alice")
    assert (told.returncode, told.stderr) == (0, "")
    shown = re.fullmatch(r"key:  (\S+)\nline: (.+)\n", told.stdout)
    assert shown is not None
    assert Keys(parse_keys(shown[2])).tenant_of(shown[1]) == "alice"
    assert shown[1] not in shown[2]


def test_a_tenant_that_no_file_may_name_gets_none() -> None:
    told = headrace("keys", "new", "al ice")
    assert (told.returncode, told.stdout) == (1, "")
    assert "tenant's name" in told.stderr


@pytest.mark.parametrize("command", [("api",), ("up",)])
def test_a_malformed_file_refuses_to_start_and_is_not_shown(tmp_path: Path, command: tuple[str, ...]) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{key_line('hr_a', 'alice')}\nhr_secret bob\n")
    where = {"HEADRACE_KEYS_FILE": str(keys), "HEADRACE_PORT": str(free_port())}
    told = headrace(*command, *(("--data-dir", str(tmp_path / "data")) if command == ("up",) else ()), **where)
    assert told.returncode == (EX_CONFIG if command == ("api",) else 1)
    assert "line 2 must be" in told.stderr
    assert "hr_secret" not in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize(("host", "keyed", "warns"), [("0.0.0.0", False, 1), ("0.0.0.0", True, 0), ("127.0.0.1", False, 0)])
async def test_an_api_that_others_reach_says_that_it_has_no_keys(tmp_path: Path, host: str, keyed: bool, warns: int) -> None:
    keys = tmp_path / "keys"
    await asyncio.to_thread(keys.write_text, key_line("hr_a", "alice"))
    environ = {"HEADRACE_HOST": host, "HEADRACE_PORT": "0", "HEADRACE_REDIS_URL": "redis://127.0.0.1:1/0"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "producer_api"),
        env={**os.environ, **environ, **({"HEADRACE_KEYS_FILE": str(keys)} if keyed else {})},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = b""
    async with asyncio.timeout(30):
        while b"Uvicorn running" not in said:
            said += await process.stderr.readline()
    process.terminate()
    said += await process.stderr.read()
    assert await process.wait() == 0
    assert said.count(b"no HEADRACE_KEYS_FILE is set") == warns


async def test_the_command_line_sends_its_key(tmp_path: Path, valkey: Store) -> None:
    keys = tmp_path / "keys"
    await asyncio.to_thread(keys.write_text, key_line("hr_a", "alice"))
    settings = Settings(port=0, model=MODEL, shutdown_s=2, keys_file=keys, redis_url=valkey.url, files_dir=tmp_path / "files")
    queue, catalog = MemoryQueue(), Catalog({MODEL: WordPrompter})
    await catalog.load()
    async with AsyncExitStack() as stack:
        registries = await stack.enter_async_context(connect(settings))
        archive = Archive(registries.files, registries.batches, FolderBlobs(settings.files_dir))
        url = await stack.enter_async_context(listening(Server(create_app(queue, archive, catalog, settings), settings)))
        await stack.enter_async_context(ScriptedWorker(queue, model=MODEL).run())

        async def run(*arguments: str, key: str | None) -> "subprocess.CompletedProcess[str]":
            environ = {"HEADRACE_API_URL": url, **({} if key is None else {"HEADRACE_API_KEY": key})}
            return await asyncio.to_thread(headrace, *arguments, **environ)

        told = await run("chat", "hi", key="hr_a")
        assert (told.returncode, told.stdout) == (0, "".join(PANGRAM) + "\n")
        [job] = await queue.list_jobs("alice", after=None, limit=9)
        assert job.request.id in (await run("jobs", "list", key="hr_a")).stdout
        for key, words in ((None, "No API key was given"), ("hr_b", "not known here"), ("hr a", "HEADRACE_API_KEY is no key")):
            for command in (("jobs", "list"), ("batch", "watch", new_batch_id())):
                told = await run(*command, key=key)
                assert told.returncode == 1
                assert words in told.stderr
                assert key is None or key not in told.stderr
