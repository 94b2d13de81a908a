"""`python -m tests.chaos`, or `make chaos`: thousands of requests through everything that may go wrong, and proof that nothing did."""

import argparse
import asyncio
import secrets
import shutil
import tempfile
from pathlib import Path

from rich.console import Console

from tests.chaos.report import print_report
from tests.chaos.run import Result, Settings, run
from tests.chaos.versions import NoHistory


def parse() -> tuple[Settings, bool]:
    """Of the command line: the run, and whether its folder stays."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of everything: requests, clients' moves, faults")
    parser.add_argument("--requests", type=int, default=20_000, help="lines of batches among them")
    parser.add_argument("--at-once", type=int, default=64, help="clients at a time")
    parser.add_argument(
        "--older",
        metavar="REF",
        help="commit to run beside this code; default: the last with other functions in the store or other records",
    )
    parser.add_argument("--patience", type=float, default=600.0, help="seconds a request may stand still before its client gives up")
    parser.add_argument("--keep", action="store_true", help="keep the store's file and all logs though nothing was violated")
    given = parser.parse_args()
    settings = Settings(seed=given.seed, requests=given.requests, at_once=given.at_once, older=given.older, patience_s=given.patience)
    return settings, given.keep


def main() -> int:
    """0: nothing was violated. 1: something was. 2: there is no older version to roll into."""
    (settings, keep), console = parse(), Console()
    folder = Path(tempfile.mkdtemp(prefix="headrace-chaos-"))

    def say(what: str) -> None:
        console.print(what, highlight=False, soft_wrap=True)

    say(f"seed {settings.seed}, {settings.requests:,} requests, {settings.at_once} at a time; logs in {folder}")
    try:
        result = asyncio.run(run(settings, folder, say))
    except KeyboardInterrupt:
        say(f"interrupted; everything is stopped. Logs: {folder}")
        return 130
    except NoHistory as error:
        say(f"no older code to run beside this: {error}")
        shutil.rmtree(folder)
        return 2
    print_report(result, console)
    return _conclude(result, folder, console, keep=keep)


def _conclude(result: Result, folder: Path, console: Console, *, keep: bool) -> int:
    if result.violations:
        (folder / "violations.txt").write_text("".join(f"{violation}\n" for violation in result.violations))
        console.print(f"seed {result.settings.seed}: {len(result.violations)} violations. They and all logs are in {folder}", style="red")
        return 1
    if not keep:
        shutil.rmtree(folder)
    console.print(f"seed {result.settings.seed}: nothing lost, nothing doubled, nothing out of order", style="green")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
