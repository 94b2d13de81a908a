"""Builders of requests and submissions: a test names what matters to it and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.ids import new_job_id
from headrace.ports import Submission
from headrace.request import Endpoint, Lane, Request, Sampling
from headrace.worker_status import WorkerStatus

DAY_MS = 86_400_000


@dataclass
class ManualClock:
    """Milliseconds that pass only when a test says so."""

    now_ms: int = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, ms: int) -> None:
        self.now_ms += ms


def make_request(
    *,
    prompt_ids: Sequence[int] = (1, 2, 3),
    max_tokens: int = 8,
    tenant: str = "default",
    model: str = "test-model",
    lane: Lane = Lane.STANDARD,
    endpoint: Endpoint = Endpoint.CHAT,
    shard: int = 0,
    job_id: str | None = None,
    attended: bool = False,
    stream: bool = False,
    include_usage: bool = False,
    echo: bool = False,
    **sampling: Any,
) -> Request:
    """`sampling`: fields of `Sampling` by name."""
    return Request(
        id=job_id or new_job_id(shard, 1_700_000_000_000),
        tenant=tenant,
        model=model,
        endpoint=endpoint,
        lane=lane,
        prompt_ids=tuple(prompt_ids),
        sampling=Sampling(**{"max_tokens": max_tokens, "seed": 0, **sampling}),
        created=1_700_000_000,
        stream=stream,
        attended=attended,
        include_usage=include_usage,
        echo=echo,
    )


def make_submission(request: Request, *, key: str | None = None, body_hash: str = "hash", ttl_ms: int = DAY_MS) -> Submission:
    return Submission(request=request, idempotency_key=key, body_hash=body_hash, ttl_ms=ttl_ms)


def make_status(worker: str = "w", **fields: Any) -> WorkerStatus:
    """Of a worker that does nothing, but for `fields`."""
    idle: dict[str, Any] = {
        "pid": 1, "model": "test-model", "device": "cpu", "memory_used": 0, "memory_total": 1, "kv_tokens_used": 0, "kv_tokens_total": 1,
        "active_requests": 0, "steps": 0,
    }  # fmt: skip
    return WorkerStatus(worker=worker, **{**idle, **fields})
