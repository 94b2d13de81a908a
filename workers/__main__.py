"""The worker's processes: `python -m workers` supervises, `python -m workers engine` runs one engine against the queue."""

import argparse
import asyncio
import logging
import os
import secrets
import time

from headrace.errors import SettingsError
from headrace.lifecycle import configure, on_stop_signal, refusing
from headrace.model_folder import ModelFolder
from headrace.queues.connect import connect
from headrace.settings import Settings
from headrace.supervise import EX_CONFIG, ChildMisconfigured, stop_with_parent
from workers.ports import Engine
from workers.supervisor import Supervisor

logger = logging.getLogger("workers")


async def supervise(settings: Settings) -> None:
    stop = asyncio.Event()
    on_stop_signal(stop.set)
    async with connect(settings) as queue:
        await Supervisor(settings.worker_name, queue).run(stop)


def make_engine(settings: Settings) -> Engine:
    """Raises SettingsError, ModelUnavailable. May take a minute: a model that is not in the cache is converted first."""
    from workers.convert import ensure_folder

    folder = ensure_folder(settings.model, settings.cache_dir)  # the API reads the tokenizer from it, whatever the engine
    if settings.engine == "scripted":
        from workers.backends.scripted import ScriptedEngine

        return ScriptedEngine(max_running=settings.max_running)
    from workers.engine.config import EngineConfig
    from workers.engine.engine import PagedEngine

    engine = PagedEngine(
        EngineConfig(
            model=folder,
            device=settings.device,
            max_running=settings.max_running,
            token_budget=settings.token_budget,
            kv_memory_mb=settings.kv_memory_mb,
            block_size=settings.block_size,
        )
    )
    context = ModelFolder.read(folder, max_context=settings.max_context).context_length
    if (room := engine.stats().kv_tokens_total) < context:
        # The API accepts whatever fits the context, and what it accepts must be able to run.
        raise SettingsError(
            f"HEADRACE_KV_MEMORY_MB={settings.kv_memory_mb} holds {room} tokens, less than the context of {context}: "
            "raise it, or lower HEADRACE_MAX_CONTEXT"
        )
    return engine


async def run_engine(settings: Settings, name: str) -> None:
    # Imported here: the supervisor must stay small and start in no time, without torch.
    from workers.engine_thread import EngineThread
    from workers.worker import EngineHung, Timing, Worker

    started = time.monotonic()
    engine = make_engine(settings)
    thread = EngineThread(engine)
    await thread.warm_up()
    logger.info("engine ready on %s after %.1f s", engine.stats().device, time.monotonic() - started)
    async with connect(settings) as queue:
        worker = Worker(
            name=name,
            model=settings.served_model,
            queue=queue,
            engine=thread,
            timing=Timing(lease=settings.lease_ms / 1_000, step=settings.step_timeout_s),
            clock=time.monotonic,
        )
        on_stop_signal(worker.stop)
        try:
            await worker.run()
        except EngineHung as error:
            logger.critical("%s; the process ends without its engine's thread", error)
            logging.shutdown()
            os._exit(1)
        finally:
            thread.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workers", description="Pulls requests from the queue and runs them.")
    parser.add_argument("--supervised", action="store_true", help="stop when the parent process does")
    roles = parser.add_subparsers(dest="role")
    engine = roles.add_parser("engine", help="run the engine in this process, without a supervisor")
    engine.add_argument("--name", default=None, help="worker id; unique for every start of a process")
    arguments = parser.parse_args()
    settings = configure("worker" if arguments.role is None else "engine")
    if arguments.supervised:
        stop_with_parent()
    with refusing("worker"):
        if arguments.role == "engine":
            asyncio.run(run_engine(settings, arguments.name or f"{settings.worker_name}-{os.getpid()}-{secrets.token_hex(3)}"))
            return
        try:
            asyncio.run(supervise(settings))
        except ChildMisconfigured:
            raise SystemExit(EX_CONFIG) from None  # the engine process has said why, on the same standard error


if __name__ == "__main__":
    main()
