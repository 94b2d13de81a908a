"""What every process does at its start: read settings or refuse, set up logging, turn signals into a stop."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headrace.errors import ModelUnavailable, SettingsError
from headrace.settings import Settings, load_settings
from headrace.supervise import EX_CONFIG, ChildMisconfigured, stop_with_parent


def start(process: str, *, module: str, does: str) -> Settings:
    """The beginning of `python -m module`, which takes no arguments but its parent's. Exits as `configure` does."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=does)
    parser.add_argument("--supervised", action="store_true", help="stop when the parent process does")
    arguments = parser.parse_args()
    settings = configure(process)
    if arguments.supervised:
        stop_with_parent()
    return settings


def configure(process: str) -> Settings:
    """Settings from the environment and logging to standard error. Exits with EX_CONFIG on a wrong setting."""
    with refusing(process):
        settings = load_settings()
    logging.basicConfig(
        level=settings.log_level.upper(),
        format=f"%(asctime)s %(levelname)s {process}[%(process)d] %(name)s: %(message)s",
        stream=sys.stderr,
    )
    return settings


@contextmanager
def refusing(process: str) -> Iterator[None]:
    """Where the process cannot run with its configuration: say why in one line, and exit so that a supervisor does not try again."""
    try:
        yield
    except (SettingsError, ModelUnavailable, ChildMisconfigured) as error:
        sys.stderr.write(f"{process}: {error}\n")
        raise SystemExit(EX_CONFIG) from None


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM and SIGINT; must be called from the running event loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
