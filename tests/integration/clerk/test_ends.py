"""How a batch ends: every line is accounted for, whatever became of it."""

import os
from functools import partial

import pytest

from headrace.batch import Batch, BatchStatus
from headrace.errors import FileNotKnown, ModelNotFound
from headrace.files.workspace import Workspace, workspaces
from headrace.ids import line_job_id, made_file_id
from headrace.testing.cut import Cut
from headrace.testing.eventually import eventually
from headrace.testing.scripted_worker import PANGRAM
from headrace.wire.prompter import Prompter
from tests.integration.clerk.site import GOOD, LINES, TENANT, WINDOW_MS, Site, answer_of, check_complete, line, turns


async def test_a_line_that_fails_is_in_the_error_file_and_the_others_answer(site: Site) -> None:
    batch = await site.finish(await site.create(line(0) + line(1, max_tokens=13) + line(2)))
    assert batch.status is BatchStatus.COMPLETED
    assert [one["custom_id"] for one in site.content(batch.output_file_id)] == ["line-0", "line-2"]
    [error] = site.content(batch.error_file_id)
    assert error["custom_id"] == "line-1"
    assert error["response"]["status_code"] == 500
    assert (batch.progress.completed, batch.progress.failed) == (2, 1)


async def test_a_line_may_have_choices_and_logprobs(site: Site) -> None:
    batch = await site.finish(await site.create(line(0, n=2) + line(1, logprobs=True, top_logprobs=1) + line(2, n=2, logprobs=True)))
    assert batch.error_file_id is None
    bodies = [one["response"]["body"] for one in site.content(batch.output_file_id)]
    for number, (body, n, tells) in enumerate(zip(bodies, (2, 1, 2), (False, True, True), strict=True)):
        assert [choice["index"] for choice in body["choices"]] == list(range(n))
        assert body["usage"]["completion_tokens"] == n * (len(PANGRAM) + 2)
        for choice in body["choices"]:
            assert choice["message"]["content"] == answer_of(number)
            assert choice["finish_reason"] == "stop"
            assert (choice["logprobs"] is not None) == tells
            if tells:
                assert len(choice["logprobs"]["content"]) == len(PANGRAM) + 2
    assert bodies[1]["choices"][0]["logprobs"]["content"][3]["top_logprobs"] == [{"token": " w3", "logprob": -0.5, "bytes": list(b" w3")}]
    assert batch.progress.output_tokens == 5 * (len(PANGRAM) + 2)


async def test_logprobs_wait_for_a_model_that_is_not_served_for_a_while(site: Site) -> None:
    site.pace.hold()
    batch_id = await site.create(line(0, logprobs=True))
    await turns(site, batch_id, 1)
    site.pace.release()
    served, site.prompters = site.prompters, not_served
    await eventually(partial(has_answered, site))
    await site.work(batch_id, Cut())
    assert (await site.batch(batch_id)).status is BatchStatus.IN_PROGRESS
    site.prompters = served
    [answered] = site.content((await site.finish(batch_id)).output_file_id)
    assert answered["response"]["body"]["choices"][0]["logprobs"] is not None


def not_served(model: str) -> Prompter:
    raise ModelNotFound(f"The model '{model}' does not exist or is not served here.", param="model")


async def has_answered(site: Site) -> bool:
    return bool(site.queue.outbox)


async def test_where_no_line_answers_there_is_no_output_file(site: Site) -> None:
    batch = await site.finish(await site.create(line(0, max_tokens=13)))
    assert batch.output_file_id is None
    assert len(site.content(batch.error_file_id)) == 1


async def test_a_refused_file_runs_nothing(site: Site) -> None:
    batch = await site.finish(await site.create(line(0) + b"{\n" + line(0)))
    assert batch.status is BatchStatus.FAILED
    assert [(fault.code, fault.line) for fault in batch.faults] == [("invalid_json_line", 2), ("duplicate_custom_id", 3)]
    assert batch.output_file_id is batch.error_file_id is None
    assert not site.queue.outbox
    assert list(workspaces(site.root)) == []


async def test_an_input_deleted_too_early_is_named_and_one_deleted_later_is_no_matter(site: Site) -> None:
    batch_id = await site.create(GOOD)
    site.blobs.delete((await site.batch(batch_id)).new.input_file_id)
    assert [fault.code for fault in (await site.finish(batch_id)).faults] == ["input_file_missing"]
    site.pace.hold()
    batch_id = await site.create(GOOD)
    await turns(site, batch_id, 1)
    site.blobs.delete((await site.batch(batch_id)).new.input_file_id)
    site.pace.release()
    check_complete(site, await site.finish(batch_id))


@pytest.mark.parametrize("turns_before", [0, 1, 3])
async def test_a_cancelled_batch_keeps_what_is_done_and_accounts_for_every_line(site: Site, turns_before: int) -> None:
    site.pace.hold()
    batch_id = await site.create(GOOD)
    if turns_before:
        await turns(site, batch_id, turns_before)
    site.pace.allow(2 * (len(PANGRAM) + 2))  # steps for two of the five lines, if they take turns so
    await site.registries.batches.cancel(TENANT, batch_id)
    batch = await site.finish(batch_id)
    assert batch.status is BatchStatus.CANCELLED
    if not turns_before:
        assert (batch.progress.total, batch.output_file_id, batch.error_file_id) == (0, None, None)
        return
    answers, errors = site.content(batch.output_file_id), site.content(batch.error_file_id)
    assert sorted(one["custom_id"] for one in answers + errors) == [f"line-{number}" for number in range(LINES)]
    assert all(one["error"]["code"] == "batch_cancelled" and one["response"] is None for one in errors)
    assert (batch.progress.completed, batch.progress.failed) == (len(answers), len(errors))
    assert (await site.queue.load()).running == 0
    assert list(workspaces(site.root)) == []


async def test_an_expired_batch_keeps_what_is_done_and_accounts_for_every_line(site: Site) -> None:
    batch_id = await site.create(GOOD)
    site.pace.hold()
    await turns(site, batch_id, 1)
    await site.registries.advance(WINDOW_MS)
    batch = await site.finish(batch_id)
    assert batch.status is BatchStatus.EXPIRED
    errors = site.content(batch.error_file_id)
    assert [one["error"]["code"] for one in errors] == ["batch_expired"] * LINES
    assert (batch.progress.completed, batch.progress.failed) == (0, LINES)


async def test_a_result_that_was_purged_unread_fails_its_line_alone(site: Site) -> None:
    site.pace.hold()
    batch_id = await site.create(GOOD)
    await turns(site, batch_id, 1)
    site.pace.release()
    job_id = line_job_id(batch_id, 2, (await site.batch(batch_id)).created_ms, 1)

    async def purged() -> bool:
        await site.queue.forget([job_id])
        return await site.queue.states([job_id]) == [None]

    await eventually(purged)
    batch = await site.finish(batch_id)
    assert [one["custom_id"] for one in site.content(batch.error_file_id)] == ["line-2"]
    assert site.content(batch.error_file_id)[0]["response"]["body"]["error"]["code"] == "result_lost"
    assert batch.progress.completed == LINES - 1


async def half_answered(site: Site) -> str:
    """A batch of which all lines but one have their results."""
    site.pace.hold()
    batch_id = await site.create(GOOD)
    await turns(site, batch_id, 1)
    site.pace.allow(LINES * (len(PANGRAM) + 3) - 1)
    await eventually(partial(some_answers, site, batch_id))
    return batch_id


async def some_answers(site: Site, batch_id: str) -> bool:
    await turns(site, batch_id, 1)
    return (await site.batch(batch_id)).output_file_id is not None


class TestLostFiles:
    @pytest.mark.parametrize("cancelled", [True, False])
    async def test_a_batch_that_has_lost_all_is_not_tried_for_ever(self, site: Site, cancelled: bool) -> None:
        batch_id = await half_answered(site)
        Workspace(site.root, batch_id).remove()
        site.blobs.delete((await site.batch(batch_id)).new.input_file_id)
        await site.work(batch_id, Cut())
        assert (await site.batch(batch_id)).status is BatchStatus.IN_PROGRESS, "the disk may come back"
        if cancelled:
            await site.registries.batches.cancel(TENANT, batch_id)
        else:
            await site.registries.advance(WINDOW_MS)
        batch = await site.finish(batch_id)
        assert batch.status is (BatchStatus.CANCELLED if cancelled else BatchStatus.EXPIRED)
        assert [fault.code for fault in batch.faults] == ["files_lost"]
        assert (batch.progress.total, batch.progress.completed, batch.progress.failed) == (LINES, 0, LINES)
        assert batch.output_file_id is None
        with pytest.raises(FileNotKnown):
            await site.registries.files.get(TENANT, made_file_id(batch_id, "output"))

    @pytest.mark.parametrize("lost", ["folder", "input", "index", "half an index"])
    async def test_what_is_left_is_enough(self, site: Site, lost: str) -> None:
        batch_id = await half_answered(site)
        workspace = Workspace(site.root, batch_id)
        match lost:
            case "folder":
                workspace.remove()
            case "input":
                workspace.input.unlink()
            case "index":
                workspace.index.unlink()
                site.blobs.delete((await site.batch(batch_id)).new.input_file_id)
            case _:
                workspace.index.write_bytes(workspace.index.read_bytes()[:-16])
        site.pace.release()
        batch = await site.finish(batch_id)
        if lost == "folder":
            check_accounted_for(site, batch)
        else:
            check_complete(site, batch)

    @pytest.mark.parametrize("how", ["deleted", "cut off", "overwritten"])
    async def test_a_journal_that_is_lost_under_a_clerk_spoils_no_answer(self, site: Site, how: str) -> None:
        """Nothing can bring back what the queue has forgotten; it must be missed, and nothing else be taken for it."""
        batch_id = await half_answered(site)
        journal = site.journal(batch_id)
        looks = 0

        def harm() -> bool:
            nonlocal looks
            looks += 1
            if looks == 2:
                whole = journal.read_bytes()
                assert whole
                match how:
                    case "deleted":
                        journal.unlink()
                    case "cut off":
                        os.truncate(journal, len(whole) // 3)
                    case _:
                        journal.write_bytes(whole.replace(b"quick", b"slow!"))
                site.pace.release()
            return False

        await site.work(batch_id, Cut(), harm)
        check_accounted_for(site, await site.finish(batch_id))


def check_accounted_for(site: Site, batch: Batch) -> None:
    """Each line has its answer, or is said to be lost; some are."""
    assert batch.status is BatchStatus.COMPLETED
    answers, errors = site.content(batch.output_file_id), site.content(batch.error_file_id)
    assert sorted(one["custom_id"] for one in answers + errors) == [f"line-{number}" for number in range(LINES)]
    for one in answers:
        number = int(one["custom_id"].removeprefix("line-"))
        assert one["response"]["body"]["choices"][0]["message"]["content"] == answer_of(number)
    assert errors
    codes = {(one["error"] or one["response"]["body"]["error"])["code"] for one in errors}
    assert codes == {"result_lost"}
    assert (batch.progress.completed, batch.progress.failed) == (len(answers), len(errors))
