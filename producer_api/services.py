"""What the routes work with, made once per app."""

import logging
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from headrace.ports import JobQueue, RequestLog
from headrace.settings import Settings
from producer_api.archive import Archive
from producer_api.catalog import Catalog
from producer_api.log_reader import LogReader
from producer_api.metrics import Metrics

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Services:
    queue: JobQueue
    archive: Archive
    catalog: Catalog
    settings: Settings
    reader: LogReader
    log: RequestLog | None = None
    """What is in front of the queue, if anything is."""
    metrics: Metrics = field(default_factory=Metrics)
    stopping: bool = False

    @property
    def broken(self) -> bool:
        """The reader died of a fault of ours: no stream can go on, and the process should be started anew."""
        return self.reader.stopped and not self.stopping

    def stop(self) -> None:
        """Begin to shut down: not ready any more, and every unfinished stream is cut."""
        if not self.stopping:  # told by the server, and then by the app's own end
            logger.info("stops: %d unfinished streams and waiting calls are cut", self.reader.unfinished)
        self.stopping = True
        self.reader.stop()


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Served = Annotated[Services, Depends(_services)]
