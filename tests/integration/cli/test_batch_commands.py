"""`headrace batch list|get|watch|cancel|results` against a running server."""

import json
from collections.abc import Awaitable, Callable

import pytest

from tests.integration.cli.command import Headrace, Told
from tests.integration.cli.fake_api import Batch, FakeApi

Ask = Callable[..., Awaitable[Told]]


@pytest.fixture
def ask(headrace: Headrace, url: str) -> Ask:
    headrace.environ["HEADRACE_API_URL"] = url
    return lambda *arguments: headrace("batch", *arguments)


def a_batch(fake: FakeApi, *, done: int, status: str = "in_progress") -> Batch:
    lines = [{"custom_id": f"c{n}", "body": {"prompt": f"prompt {n}"}} for n in range(4)]
    batch = Batch(f"batch_{len(fake.batches):032x}", "file-0", "/v1/completions", lines, status, done)
    fake.batches[batch.id] = batch
    return batch


def ids(text: str) -> list[str]:
    return [json.loads(line)["custom_id"] for line in text.splitlines()]


async def test_list_and_get(ask: Ask, fake: FakeApi) -> None:
    fake.pace = 0
    old, new = a_batch(fake, done=4, status="completed"), a_batch(fake, done=1)
    listed = (await ask("list")).stdout.splitlines()
    assert [row.split()[0] for row in listed] == ["batch", new.id, old.id]
    assert listed[1].split()[-2:] == ["1/4", "0"]
    assert json.loads((await ask("get", old.id)).stdout)["request_counts"] == {"total": 4, "completed": 4, "failed": 0}


async def test_watch_ends_with_the_batch(ask: Ask, fake: FakeApi) -> None:
    batch = a_batch(fake, done=1)
    fake.failing = {"c3"}
    told = await ask("watch", batch.id)
    assert (told.code, batch.status) == (3, "completed")
    assert "in_progress: 3/4 lines" in told.stderr
    assert "completed: 3 of 4 lines answered, 1 failed\n" in told.stderr
    assert f"`headrace batch results {batch.id}` fetches the answers\n`headrace batch results {batch.id} --errors` says" in told.stderr


async def test_cancel(ask: Ask, fake: FakeApi) -> None:
    batch = a_batch(fake, done=1)
    told = await ask("cancel", batch.id)
    assert (told.code, told.stdout) == (0, f"cancelling; `headrace batch results {batch.id}` fetches what was done\n")
    assert (await ask("watch", batch.id)).code == 1


async def test_commands_to_copy_name_the_server_that_was_named(headrace: Headrace, fake: FakeApi, url: str) -> None:
    fake.pace = 0
    batch = a_batch(fake, done=0)
    told = await headrace("batch", "results", batch.id, "--url", url)
    assert f"`headrace batch watch {batch.id} --url {url}` shows" in told.stderr
    told = await headrace("batch", "cancel", batch.id, "--url", url)
    assert f"`headrace batch results {batch.id} --url {url}` fetches" in told.stdout


async def test_a_path_that_leads_nowhere_is_told(headrace: Headrace, fake: FakeApi, url: str) -> None:
    told = await headrace("batch", "list", "--url", f"{url}/x")
    assert (told.code, told.stderr) == (1, "headrace: status 404: Not Found; is the URL right?\n")


async def test_results_of_a_batch_that_has_ended(ask: Ask, fake: FakeApi, headrace: Headrace) -> None:
    batch = a_batch(fake, done=4, status="completed")
    fake.failing = {"c1"}
    told = await ask("results", batch.id)
    assert (told.code, told.stderr, ids(told.stdout)) == (0, "", ["c0", "c2", "c3"])
    assert ids((await ask("results", batch.id, "--errors")).stdout) == ["c1"]
    assert (await ask("results", batch.id, "-o", "answers.jsonl")).code == 0
    assert (headrace.folder / "answers.jsonl").read_text() == told.stdout
    assert [path.name for path in headrace.folder.iterdir()] == ["answers.jsonl"]


async def test_results_of_a_batch_that_runs_are_called_incomplete(ask: Ask, fake: FakeApi) -> None:
    fake.pace = 0
    batch = a_batch(fake, done=2)
    told = await ask("results", batch.id)
    assert (told.code, ids(told.stdout)) == (0, ["c0", "c1"])
    assert "incomplete: the batch is in_progress" in told.stderr


async def test_results_that_are_not_there(ask: Ask, fake: FakeApi) -> None:
    fake.pace = 0
    running, ended = a_batch(fake, done=0), a_batch(fake, done=4, status="completed")
    none_yet = await ask("results", running.id)
    assert (none_yet.code, none_yet.stdout, "headrace batch watch" in none_yet.stderr) == (1, "", True)
    none_failed = await ask("results", ended.id, "--errors")
    assert (none_failed.code, none_failed.stdout, none_failed.stderr) == (0, "", "no line has failed\n")
    fake.failing = {"c0", "c1", "c2", "c3"}
    all_failed = await ask("results", ended.id)
    assert (all_failed.code, "results --errors" in all_failed.stderr) == (1, True)


@pytest.mark.parametrize("command", ["get", "watch", "cancel", "results"])
async def test_an_unknown_batch_is_told_in_one_line(ask: Ask, command: str) -> None:
    told = await ask(command, "batch_none")
    assert (told.code, told.stderr) == (1, "headrace: No batch has the id 'batch_none'.\n")
