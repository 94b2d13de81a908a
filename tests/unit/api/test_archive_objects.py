"""The file and the batch object: every field of the specification, whatever there is to say."""

from dataclasses import replace
from typing import Any

import pytest
from openai.types import Batch as OpenAIBatch
from openai.types import FileObject

from headrace.batch import Batch, BatchStatus, LineFault, NewBatch, Progress
from headrace.file import FileRecord, Purpose
from headrace.request import Endpoint
from producer_api.batch_object import batch_object
from producer_api.file_object import file_object

NEW = NewBatch(id="batch_" + "0" * 32, tenant="default", endpoint=Endpoint.CHAT, input_file_id="file-" + "1" * 32)
BATCH = Batch(new=NEW, status=BatchStatus.VALIDATING, created_ms=1_700_000_000_999, expires_ms=1_700_086_400_999)
TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


def test_a_file() -> None:
    record = FileRecord(
        id="file-" + "1" * 32,
        tenant="default",
        filename="in.jsonl",
        purpose=Purpose.BATCH,
        size=7,
        created_ms=1_700_000_000_999,
        expires_ms=1_700_086_400_000,
    )
    assert file_object(record) == {
        "id": "file-" + "1" * 32,
        "object": "file",
        "bytes": 7,
        "created_at": 1_700_000_000,
        "expires_at": 1_700_086_400,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert file_object(replace(record, expires_ms=None))["expires_at"] is None


def test_a_new_batch_has_every_field() -> None:
    shown = batch_object(BATCH)
    assert shown == {
        "id": "batch_" + "0" * 32,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": None,
        "errors": None,
        "input_file_id": "file-" + "1" * 32,
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": 1_700_000_000,
        "expires_at": 1_700_086_400,
        **dict.fromkeys((f"{time}_at" for time in TIMES), None),
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
        "metadata": None,
    }


def test_the_fields_are_those_of_the_official_client() -> None:
    """A field that the client's release adds is one for us to look at."""
    assert set(batch_object(BATCH)) == set(OpenAIBatch.model_fields)
    record = FileRecord(id="f", tenant="t", filename="n", purpose=Purpose.BATCH, size=0, created_ms=0)
    assert set(file_object(record)) == set(FileObject.model_fields)


@pytest.mark.parametrize("time", TIMES)
def test_each_time_has_its_field(time: str) -> None:
    stamped: dict[str, Any] = {f"{time}_ms": 1_700_000_001_234}
    shown = batch_object(replace(BATCH, **stamped))
    assert {name for name in shown if shown[name] == 1_700_000_001} == {f"{time}_at"}


def test_faults_counts_files_and_usage() -> None:
    batch = replace(
        BATCH,
        new=replace(NEW, metadata={"k": "v"}),
        status=BatchStatus.FAILED,
        model="m",
        faults=(LineFault(code="invalid_json_line", message="not JSON", line=3), LineFault(code="empty_file", message="empty", param="p")),
        progress=Progress(total=10, completed=6, failed=4, input_tokens=100, output_tokens=20, submitted=10),
        output_file_id="file-o",
        error_file_id="file-e",
    )
    shown = batch_object(batch)
    assert shown["errors"] == {
        "object": "list",
        "data": [
            {"code": "invalid_json_line", "message": "not JSON", "param": None, "line": 3},
            {"code": "empty_file", "message": "empty", "param": "p", "line": None},
        ],
    }
    assert (shown["request_counts"], shown["usage"]["total_tokens"]) == ({"total": 10, "completed": 6, "failed": 4}, 120)
    assert (shown["status"], shown["model"], shown["metadata"]) == ("failed", "m", {"k": "v"})
    assert (shown["output_file_id"], shown["error_file_id"]) == ("file-o", "file-e")
    OpenAIBatch.model_validate(shown, strict=False)
