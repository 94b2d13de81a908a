"""What the work on batches decides, apart from doing it."""

from dataclasses import replace
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.batch import BATCH_ENDED, BATCH_TRANSITIONS, Batch, BatchStatus, NewBatch
from headrace.cursor import LogPosition
from headrace.errors import InvalidRequest
from headrace.ids import is_job_id, line_job_id, made_file_id, shard_of
from headrace.job import Job, LogEntry
from headrace.request import Endpoint
from headrace.state import State
from headrace.testing.builders import make_request
from scheduler.batches.assemble import outcome
from scheduler.batches.results import ended_result, refused_result, undone_line
from scheduler.batches.run import FIRST_WINDOW, LARGEST_WINDOW, groups, next_window

BATCH = Batch(
    new=NewBatch(id="batch_" + "0" * 32, tenant="default", endpoint=Endpoint.CHAT, input_file_id="file-" + "0" * 32),
    status=BatchStatus.IN_PROGRESS,
    created_ms=1_700_000_000_000,
    expires_ms=1_700_086_400_000,
)


def job(state: State, reason: str = "stop") -> Job:
    return Job(
        request=make_request(prompt_ids=(1, 2, 3)),
        state=state,
        reason=reason,
        epoch=1,
        committed=2,
        crashes=0,
        cancel_requested=False,
        accepted_ms=0,
        started_ms=0,
        ended_ms=1,
        deadline_ms=2,
    )


LOG = [
    LogEntry(position=LogPosition(1, 1), token_ids=(7,), text="Hel"),
    LogEntry(position=LogPosition(1, 2), token_ids=(8,), text="lo"),
    LogEntry(position=LogPosition(1, 3), end=State.DONE, reason="stop"),
]


def test_the_window_doubles_for_empty_handed_workers_and_halves_before_a_heap() -> None:
    assert next_window(64, waiting=0) == 128
    assert next_window(128, waiting=64) == 128
    assert next_window(128, waiting=65) == 64
    assert next_window(LARGEST_WINDOW, waiting=0) == LARGEST_WINDOW
    assert next_window(FIRST_WINDOW, waiting=FIRST_WINDOW) == FIRST_WINDOW


@given(st.lists(st.integers(0, 5_000)))
def test_the_window_keeps_its_bounds(waiting: list[int]) -> None:
    window = FIRST_WINDOW
    for count in waiting:
        window = next_window(window, min(count, window))
        assert FIRST_WINDOW <= window <= LARGEST_WINDOW


@given(st.lists(st.integers(0, 30)), st.integers(1, 40))
def test_groups_keep_the_order_and_the_bound(sizes: list[int], most: int) -> None:
    found = [(line, replace(job(State.DONE), committed=size)) for line, size in enumerate(sizes)]
    made = list(groups(found, most))
    assert [one for group in made for one in group] == found
    for group in made:
        assert len(group) == 1 or sum(one.committed for _, one in group) <= most
    for group, behind in pairwise(made):
        assert sum(one.committed for _, one in group) + behind[0][1].committed > most


def test_how_a_batch_ends() -> None:
    assert outcome(replace(BATCH, status=BatchStatus.FINALIZING), whole=True)[0] is BatchStatus.COMPLETED
    for finalizing_ms in (BATCH.expires_ms + 1, BATCH.expires_ms - 1_000):  # the clerk's clock may be ahead of the store's
        late = replace(BATCH, status=BatchStatus.FINALIZING, finalizing_ms=finalizing_ms)
        assert outcome(late, whole=False) == (BatchStatus.EXPIRED, "batch_expired")
    early = replace(BATCH, status=BatchStatus.FINALIZING, finalizing_ms=BATCH.created_ms + 1)
    assert outcome(early, whole=False) == (BatchStatus.COMPLETED, "result_lost")
    for whole in (True, False):
        assert outcome(replace(BATCH, status=BatchStatus.CANCELLING), whole=whole) == (BatchStatus.CANCELLED, "batch_cancelled")


def test_every_way_onward_leads_to_an_end() -> None:
    reached = {BatchStatus.VALIDATING}
    while (onward := reached.union(*(BATCH_TRANSITIONS[status] for status in reached))) != reached:
        reached = onward
    assert reached == set(BatchStatus)
    assert {"completed", "failed", "expired", "cancelled"} == BATCH_ENDED


@given(st.integers(0, 60_000), st.integers(1, 256))
def test_a_line_always_has_the_same_job_and_lines_differ(line: int, shards: int) -> None:
    made = line_job_id(BATCH.new.id, line, BATCH.created_ms, shards)
    assert made == line_job_id(BATCH.new.id, line, BATCH.created_ms, shards)
    assert is_job_id(made)
    assert shard_of(made) < shards
    assert made != line_job_id(BATCH.new.id, line + 1, BATCH.created_ms, shards)
    assert made != line_job_id("batch_" + "1" * 32, line, BATCH.created_ms, shards)


def test_files_of_a_batch_have_ids_of_their_own() -> None:
    assert made_file_id(BATCH.new.id, "output") != made_file_id(BATCH.new.id, "errors")


def test_an_answer_is_an_output_line() -> None:
    done = job(State.DONE)
    result = ended_result(4, "mine", done, LOG, None)
    assert (result.line, result.answered, result.input_tokens, result.output_tokens) == (4, True, 3, 2)
    line = orjson.loads(result.data)
    assert line["custom_id"] == "mine"
    assert line["id"] == f"batch_req_{done.request.id}"
    assert line["error"] is None
    assert line["response"]["status_code"] == 200
    assert line["response"]["body"]["object"] == "chat.completion"
    assert line["response"]["body"]["choices"][0]["message"]["content"] == "Hello"
    assert line["response"]["body"]["usage"]["total_tokens"] == 5


@pytest.mark.parametrize(
    ("state", "status", "code"),
    [(State.FAILED, 500, "generation_failed"), (State.DEAD, 500, "worker_crashed"), (State.CANCELLED, 409, "cancelled")],
)
def test_an_end_that_is_no_answer_is_an_error_line(state: State, status: int, code: str) -> None:
    result = ended_result(0, "mine", job(state, "why"), LOG[:2], None)
    line = orjson.loads(result.data)
    assert not result.answered
    assert (line["response"]["status_code"], line["response"]["body"]["error"]["code"]) == (status, code)
    assert line["error"] is None


def test_a_line_that_cannot_run_has_the_answer_that_its_caller_would_have_had() -> None:
    error = InvalidRequest("'prompt' is bad", param="prompt")
    line = orjson.loads(refused_result(0, "mine", "id", error).data)
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"] == {
        "error": {"message": "'prompt' is bad", "type": "invalid_request_error", "param": "prompt", "code": "invalid_value"}
    }


def test_a_line_that_was_not_reached_says_why() -> None:
    line = orjson.loads(undone_line("mine", "id", "batch_expired"))
    assert line["response"] is None
    assert line["error"]["code"] == "batch_expired"
