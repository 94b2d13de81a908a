"""The HTTP application: parse → admit → port → respond. Nothing here computes on a model, and nothing is kept that a restart would lose."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from headrace.keys_file import KeysFile
from headrace.ports import JobQueue, RequestLog
from headrace.settings import Settings
from producer_api import envelope, openapi
from producer_api.archive import Archive
from producer_api.auth import Gate
from producer_api.catalog import Catalog
from producer_api.log_reader import LogReader
from producer_api.middleware import Edge
from producer_api.routes import batches, files, inference, jobs, models, probes
from producer_api.services import Services

logger = logging.getLogger(__name__)


def create_app(queue: JobQueue, archive: Archive, catalog: Catalog, settings: Settings, *, log: RequestLog | None = None) -> FastAPI:
    """The app around a queue and an archive that are already connected, or will be; the caller closes them. `log`: what the queue writes to
    before it accepts. `app.state.services` holds its parts. Raises SettingsError if the keys file is wrong."""
    services = Services(queue, archive, catalog, settings, LogReader(queue, viewer_grace_s=settings.viewer_grace_ms / 1000), log)
    if log is not None:
        log.watch(services.metrics.note_append)
    app = FastAPI(title="Headrace", version=version("headrace"), lifespan=_background, responses=openapi.ERRORS)
    app.state.services = services
    for routes in (inference, jobs, files, batches, models, probes):
        app.include_router(routes.router)
    envelope.install(app)
    app.add_middleware(Gate, keys=None if settings.keys_file is None else KeysFile(settings.keys_file))
    app.add_middleware(Edge, metrics=services.metrics)  # the last is the outermost
    return app


@asynccontextmanager
async def _background(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    tasks = [
        asyncio.create_task(services.reader.run(), name="log reader"),
        asyncio.create_task(services.catalog.load(), name="model loader"),
    ]
    for task in tasks:
        task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        services.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("%s failed", task.get_name(), exc_info=error)
