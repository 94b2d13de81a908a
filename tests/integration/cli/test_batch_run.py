"""`headrace batch run` against a running server: what it makes, and what becomes of it when it is killed, cut off or refused."""

import asyncio
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.command import Command, Headrace
from tests.integration.cli.fake_api import MODEL, FakeApi, Gate

PROMPTS = [f"prompt {number}" for number in range(1, 8)]
RUN = ("batch", "run", "in.txt", "-o", "out.jsonl")
REACHED_WITHIN_S = 30.0


@pytest.fixture(autouse=True)
def the_input(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(folder: Path) -> list[tuple[str, str]]:
    return [(line["custom_id"], line["response"]["body"]["text"]) for line in read(folder / "out.jsonl")]


def expected(skipped: Sequence[int] = ()) -> list[tuple[str, str]]:
    return [(f"line-{number}", prompt) for number, prompt in enumerate(PROMPTS, 1) if number not in skipped]


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def reached(gate: Gate, command: Command) -> None:
    """A reply waits at the gate; not before the command's own end."""
    ended = asyncio.ensure_future(command.process.wait())
    waiting = asyncio.ensure_future(gate.reached.wait())
    try:
        async with asyncio.timeout(REACHED_WITHIN_S):
            await asyncio.wait({ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert gate.reached.is_set(), (await command.ended()).stderr
    finally:
        ended.cancel()
        waiting.cancel()


async def test_prompts_are_answered_in_order(headrace: Headrace, fake: FakeApi, url: str) -> None:
    told = await headrace(*RUN, "--url", url, "--max-tokens", "9", "--temperature", "0")
    assert told.code == 0, told.stderr
    assert answers(headrace.folder) == expected()
    assert left(headrace.folder) == {"in.txt", "out.jsonl"}
    body = {"model": MODEL, "max_tokens": 9, "temperature": 0.0, "messages": [{"role": "user", "content": "prompt 1"}]}
    assert fake.only_batch.lines[0] == {"custom_id": "line-1", "method": "POST", "url": "/v1/chat/completions", "body": body}


async def test_the_gaps_of_jsonl_are_filled_and_what_it_says_stays(headrace: Headrace, fake: FakeApi, url: str) -> None:
    sparse = {"body": {"prompt": "short"}}
    full = {"custom_id": "mine", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "whole", "max_tokens": 3}}
    source = json.dumps(full) + "\n\n" + json.dumps(sparse)
    told = await headrace(
        "batch", "run", "-", "-o", "out.jsonl", "--model", "other", "--max-tokens", "5", "--url", url, stdin=source.encode()
    )
    assert told.code == 0, told.stderr
    filled = {
        "custom_id": "line-3",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": "other", "max_tokens": 5, "prompt": "short"},
    }
    assert fake.only_batch.lines == [full, filled]
    assert fake.only_batch.endpoint == "/v1/completions"
    assert fake.asked["GET /v1/models"] == 0


async def test_the_server_may_be_named_by_the_environment(headrace: Headrace, fake: FakeApi, url: str) -> None:
    headrace.environ["HEADRACE_API_URL"] = f"{url}/v1"
    assert (await headrace(*RUN)).code == 0
    assert answers(headrace.folder) == expected()


async def test_lines_that_fail_go_to_a_file_of_their_own(headrace: Headrace, fake: FakeApi, url: str) -> None:
    fake.failing = {"line-2", "line-5"}
    told = await headrace(*RUN, "--url", url)
    assert (told.code, "5 of 7 lines answered" in told.stderr, "2 failed: out.errors.jsonl" in told.stderr) == (3, True, True)
    assert answers(headrace.folder) == expected(skipped=(2, 5))
    assert [line["custom_id"] for line in read(headrace.folder / "out.errors.jsonl")] == ["line-2", "line-5"]

    fake.failing = set()
    assert (await headrace(*RUN, "--url", url, "--restart")).code == 0
    assert left(headrace.folder) == {"in.txt", "out.jsonl"}, "the errors of the run before are not this one's"


async def test_what_is_done_is_not_run_again(headrace: Headrace, fake: FakeApi, url: str) -> None:
    fake.failing = {"line-2"}
    assert (await headrace(*RUN, "--url", url)).code == 3
    asked = fake.asked.total()
    told = await headrace(*RUN, "--url", url)
    assert (told.code, fake.asked.total()) == (3, asked), told.stderr
    assert told.stderr == "already done: 6 of 7 lines answered: out.jsonl; 1 failed: out.errors.jsonl; --restart runs it again\n"


@pytest.mark.parametrize("change", ["edited", "another output", "cancelled", "only errors"])
async def test_an_output_that_answers_something_else_is_not_replaced(headrace: Headrace, fake: FakeApi, url: str, change: str) -> None:
    if change == "cancelled":
        fake.ends_as = "cancelled"
    assert (await headrace(*RUN, "--url", url)).code == (change == "cancelled")
    out, there = headrace.folder / "out.jsonl", "out.jsonl"
    match change:
        case "edited":
            (headrace.folder / "in.txt").write_text("".join(f"other {prompt}\n" for prompt in PROMPTS))
        case "another output":
            out.write_text("my thesis\n")
        case "only errors":
            out.rename(headrace.folder / (there := "out.errors.jsonl"))
    kept, asked = (headrace.folder / there).read_text(), fake.asked.total()
    told = await headrace(*RUN, "--url", url)
    words = f"headrace: {there} exists; add --restart to replace it, or choose another file with -o\n"
    assert (told.code, told.stderr, fake.asked.total()) == (1, words, asked)
    assert ((headrace.folder / there).read_text(), left(headrace.folder)) == (kept, {"in.txt", there})

    fake.ends_as = None
    assert (await headrace(*RUN, "--url", url, "--restart")).code == 0
    assert len(answers(headrace.folder)) == len(PROMPTS)


@pytest.mark.parametrize("stage", ["uploaded", "created", "polled", "half_sent"])
async def test_a_killed_run_goes_on_with_the_same_batch(headrace: Headrace, fake: FakeApi, url: str, stage: str) -> None:
    """Killed where the server has done what it was asked, and the answer is still on its way."""
    (headrace.folder / "out.jsonl").write_text("of an earlier run\n")
    gate: Gate = getattr(fake, stage)
    gate.shut()
    async with headrace.start(*RUN, "--url", url, "--restart") as command:
        await reached(gate, command)
        await command.kill()
    gate.open()
    assert (headrace.folder / "out.jsonl").read_text() == "of an earlier run\n"

    told = await headrace(*RUN, "--url", url)
    assert told.code == 0, told.stderr
    assert answers(headrace.folder) == expected()
    assert left(headrace.folder) == {"in.txt", "out.jsonl"}
    assert (len(fake.files), len(fake.batches)) == (1, 1)
    assert fake.asked["POST /v1/batches"] == (2 if stage == "created" else 1)
    assert fake.asked["POST /v1/files"] == (2 if stage == "uploaded" else 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_run_leaves_the_batch_to_the_server(
    headrace: Headrace, fake: FakeApi, url: str, number: signal.Signals
) -> None:
    fake.polled.shut()
    async with headrace.start(*RUN, "--url", url) as command:
        await reached(fake.polled, command)
        command.process.send_signal(number)
        told = await command.ended()
    assert told.code == 130
    assert f"the same command picks it up, `headrace batch cancel batch_0 --url {url}` stops it" in told.stderr
    assert "Traceback" not in told.stderr
    fake.polled.open()

    told = await headrace(*RUN, "--url", url)
    assert (told.code, "going on with batch batch_0" in told.stderr) == (0, True)
    assert answers(headrace.folder) == expected()
    assert len(fake.batches) == 1


async def interrupted(headrace: Headrace, fake: FakeApi, url: str) -> None:
    fake.polled.shut()
    async with headrace.start(*RUN, "--url", url) as command:
        await reached(fake.polled, command)
        await command.kill()
    fake.polled.open()


@pytest.mark.parametrize(("change", "words"), [((), "the input"), (("--max-tokens", "9"), "--max-tokens (then not given)")])
async def test_another_run_is_not_taken_for_the_first(
    headrace: Headrace, fake: FakeApi, url: str, change: tuple[str, ...], words: str
) -> None:
    await interrupted(headrace, fake, url)
    if not change:
        (headrace.folder / "in.txt").write_text("another prompt\n")
    told = await headrace(*RUN, "--url", url, *change)
    assert (told.code, f"differs in {words}:" in told.stderr, "--restart" in told.stderr) == (1, True, True)

    told = await headrace(*RUN, "--url", url, *change, "--restart")
    assert told.code == 0, told.stderr
    assert "batch batch_0 is cancelled" in told.stderr
    assert fake.batches["batch_0"].status == "cancelling"
    assert answers(headrace.folder) == (expected() if change else [("line-1", "another prompt")])


@pytest.mark.parametrize("changed", [False, True])
async def test_a_run_killed_while_it_cleans_up_is_not_run_again(headrace: Headrace, fake: FakeApi, url: str, changed: bool) -> None:
    """Asked for other answers, it tidies up and does not replace those of the first run."""
    fake.failing = {"line-2"}
    await interrupted(headrace, fake, url)
    note = headrace.folder / "out.jsonl.batch.json"
    noted = json.loads(note.read_text())
    assert (await headrace(*RUN, "--url", url)).code == 3
    answered = (headrace.folder / "out.jsonl").read_text()
    counts = {"total": 7, "completed": 6, "failed": 1}
    note.write_text(json.dumps({**noted, "ended": {"id": "batch_0", "status": "completed", "request_counts": counts}}))

    asked = fake.asked.total()
    told = await headrace(*RUN, "--url", url, *(("--max-tokens", "9") if changed else ()))
    words = "out.jsonl exists; add --restart" if changed else "6 of 7 lines answered: out.jsonl; 1 failed: out.errors.jsonl"
    assert (told.code, words in told.stderr) == (1 if changed else 3, True)
    assert (headrace.folder / "out.jsonl").read_text() == answered
    assert left(headrace.folder) == {"in.txt", "out.jsonl", "out.errors.jsonl"}
    assert fake.asked.total() == asked


async def test_a_damaged_note_is_told(headrace: Headrace, fake: FakeApi, url: str) -> None:
    note = headrace.folder / "out.jsonl.batch.json"
    note.write_text("{}")
    told = await headrace(*RUN, "--url", url)
    assert (told.code, "cannot read out.jsonl.batch.json" in told.stderr, "--restart" in told.stderr) == (1, True, True)
    assert (await headrace(*RUN, "--url", url, "--restart")).code == 0


async def test_a_batch_that_the_server_has_forgotten_is_told(headrace: Headrace, fake: FakeApi, url: str) -> None:
    await interrupted(headrace, fake, url)
    fake.batches.clear()
    told = await headrace(*RUN, "--url", url)
    assert (told.code, "No batch has the id 'batch_0'" in told.stderr, "--restart" in told.stderr) == (1, True, True)
    assert (await headrace(*RUN, "--url", url, "--restart")).code == 0


async def test_a_refused_input_is_explained_line_by_line(headrace: Headrace, fake: FakeApi, url: str) -> None:
    fake.faults = [{"code": "invalid_json_line", "message": f"Fault {n}.", "param": None, "line": n} for n in range(1, 26)]
    told = await headrace(*RUN, "--url", url)
    assert (told.code, left(headrace.folder)) == (1, {"in.txt"})
    assert "line 20: Fault 20. (invalid_json_line)\n… and 5 more\n" in told.stderr
    assert "Fault 21" not in told.stderr
    assert "refused: 25 problems\n" in told.stderr
    assert "nothing ran; correct the input and run it again" in told.stderr
    assert "fetching" not in told.stderr

    fake.faults = [{"code": "model_not_found", "message": "No such model.", "param": "body.model", "line": n} for n in (1, 2)]
    told = await headrace(*RUN, "--url", url, "--model", "nobody")
    assert "2 times, first in line 1: No such model. (model_not_found)\nnothing ran; correct --model and run it again\n" in told.stderr

    fake.faults = []
    assert (await headrace(*RUN, "--url", url)).code == 0, "the corrected input is another run, and nothing stands in its way"


async def test_an_input_over_the_limit_is_refused_in_one_line(headrace: Headrace, fake: FakeApi, url: str) -> None:
    fake.max_file_bytes = 100_000
    (headrace.folder / "in.txt").write_text("a prompt of some length\n" * 50_000)
    told = await headrace(*RUN, "--url", url)
    assert told.code == 1
    assert "the server refuses it: 'file' must be at most 100000 bytes long." in told.stderr
    assert left(headrace.folder) == {"in.txt"}


@pytest.mark.parametrize("how", ["expired", "cancelled"])
async def test_what_was_done_of_a_batch_that_ended_early_is_kept(headrace: Headrace, fake: FakeApi, url: str, how: str) -> None:
    fake.ends_as = how
    told = await headrace(*RUN, "--url", url)
    assert (told.code, f"the batch was {how} before its end" in told.stderr) == (1, True)
    assert answers(headrace.folder) == expected()[: fake.only_batch.done]
    assert left(headrace.folder) == {"in.txt", "out.jsonl"}


async def test_a_server_that_goes_away_is_waited_for(headrace: Headrace, fake: FakeApi) -> None:
    fake.polled.shut()
    async with fake.serve() as url:
        port = int(url.rpartition(":")[2])
        run = headrace.start(*RUN, "--url", url)
        command = await run.__aenter__()
        await reached(fake.polled, command)
    try:
        await line_with(command, f"waiting for {url}")
        fake.polled.open()
        async with fake.serve(port):
            told = await command.ended()
    finally:
        await run.__aexit__(None, None, None)
    assert (told.code, f"{url} answers again" in told.stderr) == (0, True)
    assert answers(headrace.folder) == expected()
    assert len(fake.batches) == 1


async def line_with(command: Command, words: str) -> str:
    """The next line on standard error with these words."""
    assert command.process.stderr is not None
    async with asyncio.timeout(REACHED_WITHIN_S):
        while line := (await command.process.stderr.readline()).decode():
            if words in line:
                return line
    raise AssertionError(f"it ended without saying {words!r}")


async def test_a_server_that_is_busy_is_waited_for(headrace: Headrace, fake: FakeApi, url: str) -> None:
    fake.refusals = 3
    told = await headrace(*RUN, "--url", url)
    assert (told.code, f"waiting for {url}: The queue did not answer." in told.stderr, "answers again" in told.stderr) == (0, True, True)
    assert answers(headrace.folder) == expected()


async def test_two_runs_do_not_write_one_file(headrace: Headrace, fake: FakeApi, url: str) -> None:
    fake.polled.shut()
    async with headrace.start(*RUN, "--url", url) as first:
        await reached(fake.polled, first)
        async with headrace.start(*RUN, "--url", url) as second:
            await line_with(second, "still holds out.jsonl; waiting for it to stop")
            await first.kill()
            fake.polled.open()
            assert (await second.ended()).code == 0
    assert answers(headrace.folder) == expected()
    assert len(fake.batches) == 1
