"""The batch object of /v1/batches. Times are Unix seconds."""

from typing import Any

from headrace.batch import COMPLETION_WINDOW, Batch, LineFault, NewBatch, Progress, TopicRange


def batch_object(batch: Batch) -> dict[str, Any]:
    """All fields of the specification; null where there is nothing (yet). Those of topics are ours, and there where a batch has them."""
    new = batch.new
    return {
        "id": new.id,
        "object": "batch",
        "endpoint": new.endpoint,
        "model": batch.model,
        "errors": _errors(batch.faults),
        "input_file_id": new.input_file_id,
        "completion_window": COMPLETION_WINDOW,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": _seconds(batch.created_ms),
        "in_progress_at": _seconds(batch.in_progress_ms),
        "expires_at": _seconds(batch.expires_ms),
        "finalizing_at": _seconds(batch.finalizing_ms),
        "completed_at": _seconds(batch.completed_ms),
        "failed_at": _seconds(batch.failed_ms),
        "expired_at": _seconds(batch.expired_ms),
        "cancelling_at": _seconds(batch.cancelling_ms),
        "cancelled_at": _seconds(batch.cancelled_ms),
        "request_counts": {"total": batch.progress.total, "completed": batch.progress.completed, "failed": batch.progress.failed},
        "usage": _usage(batch.progress),
        "metadata": new.metadata,
        **_topics(new),
    }


def _topics(new: NewBatch) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if new.input_topic is not None:
        fields["input_topic"] = _range(new.input_topic)
    if new.output_topic is not None:
        fields["output_topic"] = new.output_topic
    return fields


def _range(found: TopicRange) -> dict[str, Any]:
    """As it is asked for, and with nothing left out."""
    return {"name": found.topic, "partitions": [{"partition": one.partition, "from": one.start, "to": one.end} for one in found.spans]}


def _errors(faults: tuple[LineFault, ...]) -> dict[str, Any] | None:
    if not faults:
        return None
    data = [{"code": fault.code, "message": fault.message, "param": fault.param, "line": fault.line} for fault in faults]
    return {"object": "list", "data": data}


def _usage(progress: Progress) -> dict[str, Any]:
    """In the words of the Responses API, as a batch has it: input and output where a completion has prompt and completion."""
    return {
        "input_tokens": progress.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": progress.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": progress.input_tokens + progress.output_tokens,
    }


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000
