"""The worker's processes: `python -m workers` supervises, `python -m workers engine` runs one engine against the queue."""

import argparse
import asyncio
import logging
import os
import secrets
import time
from concurrent.futures import Future, wait

from headrace.lifecycle import configure, on_stop_signal, refusing
from headrace.queues.connect import connect
from headrace.settings import Settings
from headrace.supervise import EX_CONFIG, ChildMisconfigured, stop_with_parent
from headrace.tidings import Tell, tell_nobody, telling
from headrace.worker_status import WorkerStatus
from workers.engine_thread import EngineThread
from workers.ports import Engine
from workers.pulse import Patience, Pulse, beating
from workers.status import reporting, status_of
from workers.supervisor import Supervisor
from workers.timing import Timing
from workers.worker import Worker

logger = logging.getLogger("workers")

STANDBY_PAUSE_S = 3.0
"""A standby is most often started because another one has just died: who goes on in its place has the processors to itself for so long."""


async def supervise(settings: Settings, tell: Tell) -> None:
    stop = asyncio.Event()
    on_stop_signal(stop.set)
    patience = Patience(start=settings.start_timeout_s, step=settings.step_timeout_s)
    async with connect(settings) as queue:
        await Supervisor(settings.worker_name, queue, standbys=settings.standby, patience=patience, tell=tell).run(stop)


async def run_engine(settings: Settings, name: str, engine: Engine, *, turn: Future[None], pulse: Pulse | None) -> None:
    """Warm up, wait until `turn` is done, then take work until told to stop. Raises what the engine raises."""
    thread = EngineThread(engine)
    timing = Timing(lease=settings.lease_ms / 1_000)

    def waiting() -> WorkerStatus:
        return status_of(name, settings.served_model, engine.stats(), standby=True)

    async with connect(settings) as queue:
        worker = Worker(
            name=name,
            model=settings.served_model,
            queue=queue,
            engine=thread,
            timing=timing,
            clock=time.monotonic,
        )
        on_stop_signal(worker.stop)
        try:
            await thread.warm_up()
            logger.info("%s is warmed up on %s", name, engine.stats().device)
            async with beating(pulse, thread):
                if not turn.done():
                    async with reporting(queue, waiting, every=timing.renew, ttl_ms=timing.lease_ms):
                        await its_turn(turn, worker)
                if turn.done():
                    await thread.open()
                    logger.info("%s takes work", name)
                    await worker.run()
        finally:
            thread.close()


async def its_turn(turn: Future[None], worker: Worker) -> None:
    """Waits until it has come, or the worker was told to stop."""
    stopping = asyncio.ensure_future(worker.stopped())
    await asyncio.wait([asyncio.wrap_future(turn), stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()


def at_once() -> Future[None]:
    turn: Future[None] = Future()
    turn.set_result(None)
    return turn


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workers", description="Pulls requests from the queue and runs them.")
    parser.add_argument("--supervised", action="store_true", help="stop when the parent process does")
    parser.add_argument("--tell", type=int, default=None, help="descriptor of a pipe to the parent, for what becomes of the engine")
    roles = parser.add_subparsers(dest="role")
    engine = roles.add_parser("engine", help="run the engine in this process, without a supervisor to notice if it hangs")
    engine.add_argument("--name", default=None, help="worker id; unique for every start of a process")
    engine.add_argument("--pulse", type=int, default=None, help="descriptor of the memory shared with a supervisor")
    arguments = parser.parse_args()
    settings = configure("worker" if arguments.role is None else "engine")
    turn = stop_with_parent() if arguments.supervised else at_once()
    with refusing("worker"):
        if arguments.role == "engine":
            # Imported here: the supervisor must stay small and start in no time.
            from workers.backends.build import build_engine

            os.environ.setdefault("NUMBA_CACHE_DIR", str(settings.cache_dir / "kernels"))
            name = arguments.name or f"{settings.worker_name}-{os.getpid()}-{secrets.token_hex(3)}"
            pulse = None if arguments.pulse is None else Pulse(arguments.pulse)
            wait([turn], STANDBY_PAUSE_S)
            asyncio.run(run_engine(settings, name, build_engine(settings), turn=turn, pulse=pulse))
            return
        try:
            asyncio.run(supervise(settings, tell_nobody if arguments.tell is None else telling(arguments.tell)))
        except ChildMisconfigured:
            raise SystemExit(EX_CONFIG) from None  # the engine process has said why, on the same standard error


if __name__ == "__main__":
    main()
