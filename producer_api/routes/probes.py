"""/health, /ready and /metrics.

Health says that the process lives, ready that it should get requests: to restart an API because its queue is away would help nobody.
"""

import asyncio
import shutil
from collections.abc import Awaitable
from dataclasses import asdict
from importlib.metadata import version
from typing import TypeVar

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from headrace.errors import QueueFull, QueueUnavailable
from headrace.ports import JobQueue
from producer_api.envelope import json_response
from producer_api.metrics import Seen
from producer_api.readiness import log_part, scheduler_part, store_part, workers_part
from producer_api.services import Served

router = APIRouter(tags=["probes"])

PATIENCE_S = 2.0
"""A probe is answered within this time, whatever the queue does."""

T = TypeVar("T")


@router.get("/health")
async def health(services: Served) -> Response:
    """200 as long as the process lives; what it knows of models, queue and workers."""
    found = await _or_none(services.queue.workers())
    workers = [worker for worker in found or [] if not worker.standby]
    missing = services.catalog.missing
    return json_response(
        {
            "status": "ok",
            "version": version("headrace"),
            "queue": "ok" if found is not None else "queue unreachable",
            "models": [{"id": name, "loaded": name not in missing, "reason": missing.get(name)} for name in services.catalog.names],
            "active_requests": sum(worker.active_requests for worker in workers),
            "workers": [asdict(worker) for worker in workers],
            "standbys": [asdict(worker) for worker in found or [] if worker.standby],
        }
    )


@router.get("/ready")
async def ready(services: Served) -> Response:
    """200 if a request sent now would be accepted, else 503 with `reasons`; and how the parts behind it are (producer_api/readiness.py)."""
    reasons = [f"model {name}: {why}" for name, why in services.catalog.missing.items()]
    if services.stopping:
        reasons.append("shutting down")
    if services.broken:
        reasons.append("the log reader stopped")
    refusal, found, swept_ms = await asyncio.gather(
        _refusal(services.queue), _or_none(services.queue.workers()), _or_none(services.queue.swept_ms_ago())
    )
    if refusal is not None:
        reasons.append(refusal)
    log = services.log
    if log is not None and log.down is not None:
        reasons.append(f"the log of requests: {log.down}")
    components = {
        "store": store_part(refusal),
        **({} if log is None else {"log": log_part(log.down)}),
        "scheduler": scheduler_part(_seconds(swept_ms), interval_s=services.settings.janitor_ms / 1_000),
        "workers": workers_part(services.catalog.names, found),
    }
    said = {"status": "not ready", "reasons": reasons} if reasons else {"status": "ready"}
    return json_response({**said, "components": components}, 503 if reasons else 200)


@router.get("/metrics", response_class=Response)
async def metrics(services: Served) -> Response:
    """Prometheus exposition; the gauges of queue and disk are read for this scrape."""
    disk = asyncio.to_thread(shutil.disk_usage, services.settings.files_dir)
    queue = services.queue
    load, workers, swept_ms, usage = await asyncio.gather(
        _or_none(queue.load()), _or_none(queue.workers()), _or_none(queue.swept_ms_ago()), _or_none(disk)
    )
    seen = Seen(
        load=load,
        workers=workers,
        swept_s_ago=_seconds(swept_ms),
        files_free=None if usage is None else usage.free,
        log_up=None if services.log is None else services.log.down is None,
    )
    return Response(services.metrics.render(seen), media_type=CONTENT_TYPE_LATEST)


async def _refusal(queue: JobQueue) -> str | None:
    """Why the store takes no work."""

    async def pinged() -> bool:
        await queue.ping()
        return True

    try:
        return None if await _or_none(pinged()) else "queue unreachable"
    except QueueFull as error:
        return str(error)


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1_000


async def _or_none(answer: Awaitable[T]) -> T | None:
    """The answer of the queue or the disk, or None if it gave none in time."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await answer
    except (QueueUnavailable, OSError):  # a TimeoutError is one
        return None
