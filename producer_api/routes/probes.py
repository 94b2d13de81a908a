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
from producer_api.envelope import json_response
from producer_api.services import Served

router = APIRouter(tags=["probes"])

PATIENCE_S = 2.0
"""A probe is answered within this time, whatever the queue does."""

T = TypeVar("T")


@router.get("/health")
async def health(services: Served) -> Response:
    """200 as long as the process lives; what it knows of models, queue and workers."""
    workers = await _or_none(services.queue.workers())
    missing = services.catalog.missing
    return json_response(
        {
            "status": "ok",
            "version": version("headrace"),
            "queue": "ok" if workers is not None else "queue unreachable",
            "models": [{"id": name, "loaded": name not in missing, "reason": missing.get(name)} for name in services.catalog.names],
            "active_requests": sum(worker.active_requests for worker in workers or []),
            "workers": [asdict(worker) for worker in workers or []],
        }
    )


@router.get("/ready")
async def ready(services: Served) -> Response:
    """200 if a request sent now would be accepted, else 503 with `reasons`."""
    reasons = [f"model {name}: {why}" for name, why in services.catalog.missing.items()]
    if services.stopping:
        reasons.append("shutting down")
    if services.broken:
        reasons.append("the log reader stopped")
    try:
        if await _or_none(_pinged(services.queue.ping())) is None:
            reasons.append("queue unreachable")
    except QueueFull as error:
        reasons.append(str(error))
    return json_response({"status": "not ready", "reasons": reasons} if reasons else {"status": "ready"}, 503 if reasons else 200)


@router.get("/metrics", response_class=Response)
async def metrics(services: Served) -> Response:
    """Prometheus exposition; the gauges of queue and disk are read for this scrape."""
    disk = asyncio.to_thread(shutil.disk_usage, services.settings.files_dir)
    load, workers, usage = await asyncio.gather(_or_none(services.queue.load()), _or_none(services.queue.workers()), _or_none(disk))
    text = services.metrics.render(load, None if workers is None else len(workers), None if usage is None else usage.free)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _pinged(ping: Awaitable[None]) -> bool:
    await ping
    return True


async def _or_none(answer: Awaitable[T]) -> T | None:
    """The answer of the queue or the disk, or None if it gave none in time."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await answer
    except (QueueUnavailable, OSError):  # a TimeoutError is one
        return None
