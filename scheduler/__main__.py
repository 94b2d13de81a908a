"""The control plane's process: `python -m scheduler`."""

import asyncio
import contextlib
import logging
import time

from prometheus_client import start_http_server

from headrace.batch_ports import BatchWork
from headrace.errors import QueueUnavailable
from headrace.lifecycle import on_stop_signal, refusing, start
from headrace.ports import Housekeeping
from headrace.queues.connect import connect as connect_queue
from headrace.registries.connect import connect as connect_registries
from headrace.settings import Settings
from scheduler.batches.desk import Desk
from scheduler.dispatcher import Dispatcher
from scheduler.janitor import Janitor
from scheduler.metrics import Sample, SchedulerMetrics

logger = logging.getLogger("scheduler")

LOAD_SAMPLE_S = 5.0


async def sample_load(queue: Housekeeping, batches: BatchWork, metrics: SchedulerMetrics, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            metrics.observe(Sample(load=await queue.load(), live_batches=await batches.live(), stalled_batches=await batches.stalled()))
        except QueueUnavailable as error:
            metrics.observe(None)
            logger.debug("no load sample: %s", error)  # the janitor reports the outage
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOAD_SAMPLE_S)


async def run(settings: Settings) -> None:
    stop = asyncio.Event()
    on_stop_signal(stop.set)
    metrics = SchedulerMetrics()
    async with connect_queue(settings) as queue, connect_registries(settings) as registries:
        desk = Desk(settings.rq_url or settings.redis_url)
        dispatcher = Dispatcher(registries.batches, desk, interval=settings.janitor_ms / 1_000, clock=time.monotonic, looked=metrics.looked)
        janitor = Janitor(
            queue,
            interval=settings.janitor_ms / 1_000,
            lease=settings.lease_ms / 1_000,
            viewer_grace=settings.viewer_grace_ms / 1_000,
            clock=time.monotonic,
            swept=metrics.swept,
        )
        if settings.scheduler_port:
            start_http_server(settings.scheduler_port, addr=settings.host, registry=metrics.registry)
        logger.info("janitor sweeps every %d ms", settings.janitor_ms)
        await asyncio.gather(janitor.run(stop), dispatcher.run(stop), sample_load(queue, registries.batches, metrics, stop))
        desk.close()
    logger.info("stopped")


def main() -> None:
    settings = start("scheduler", module="scheduler", does="Sweeps what no owner will: leases, deadlines, retention.")
    with refusing("scheduler"):
        asyncio.run(run(settings))


if __name__ == "__main__":
    main()
