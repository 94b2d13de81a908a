"""The API's process: `python -m producer_api`.

It starts, and stays, without a queue and without a model: /ready says what is missing, requests get 503, and what appears is picked up.
"""

import asyncio
import logging
from functools import partial

import uvloop

from headrace.files.folder import FolderBlobs
from headrace.keys import reaches_others
from headrace.lifecycle import on_stop_signal, refusing, start
from headrace.queues.connect import connect_submitter
from headrace.registries.connect import connect as connect_registries
from headrace.settings import Settings
from headrace.wire.prompter import FolderPrompter
from producer_api.app import create_app
from producer_api.archive import Archive
from producer_api.catalog import Catalog
from producer_api.server import Server, quiet_cut_streams, raise_file_limit

logger = logging.getLogger("producer_api")


async def run(settings: Settings) -> bool:
    """Serve until told to stop. False if the process stopped because of a fault."""
    load = partial(FolderPrompter.load, settings.model, settings.cache_dir, settings.max_context, engine=settings.engine)
    catalog = Catalog({settings.served_model: load})
    if settings.keys_file is None and reaches_others(settings.host):
        logger.warning("whoever reaches %s may do everything here: no HEADRACE_KEYS_FILE is set", settings.host)
    blobs = FolderBlobs(settings.files_dir)
    async with connect_submitter(settings) as (queue, log), connect_registries(settings) as registries:
        archive = Archive(registries.files, registries.batches, blobs, registries.topics)
        server = Server(create_app(queue, archive, catalog, settings, log=log), settings)
        on_stop_signal(server.request_stop)
        await server.serve()
    logger.info("stopped")
    return not server.failed


def main() -> None:
    settings = start("api", module="producer_api", does="HTTP in, events out.")
    raise_file_limit()
    quiet_cut_streams()
    with refusing("api"), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ended_well = runner.run(run(settings))
    if not ended_well:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
