"""How fast everything comes back, or goes: python -m benchmarks.recovery -n 5 --only standby,alone

Real processes, and a Valkey that fsyncs every write and is started again as `headrace up` does it. The figures of one run belong together;
on a machine that has other work to do they mean little beyond their order.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping

from benchmarks.arguments import parser_of
from benchmarks.recovery import drains, hangs, kills
from benchmarks.recovery.figure import HEAD, Figure
from benchmarks.recovery.site import Site
from benchmarks.workload import mix
from headrace.model_folder import DEMO_MODEL
from headrace.settings import load_settings
from workers.convert import ensure_folder

Measurement = Callable[[Site, int], Awaitable[list[Figure]]]

MEASUREMENTS: Mapping[str, Measurement] = {
    "standby": kills.with_standby,
    "worker": kills.with_second_worker,
    "alone": kills.alone,
    "machine": kills.machine,
    "store": kills.store,
    "hang": hangs.hang,
    "api-drain": drains.api,
    "worker-drain": drains.worker,
    "scheduler-drain": drains.scheduler,
}


async def measure(measurement: Measurement, n: int, model: str, prompt_ids: tuple[int, ...]) -> None:
    async with Site.open(model, prompt_ids) as site:
        for figure in await measurement(site, n):
            print(figure.row(), flush=True)


def names(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := sorted(set(chosen).difference(MEASUREMENTS)):
        raise argparse.ArgumentTypeError(f"no measurement {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    return chosen


def main() -> None:
    parser = parser_of("benchmarks.recovery", __doc__)
    parser.add_argument("-n", type=int, default=5, help="times that each is measured")
    parser.add_argument(
        "--only", type=names, default=list(MEASUREMENTS), metavar="NAMES", help=f"comma-separated: {', '.join(MEASUREMENTS)}"
    )
    parser.add_argument("--model", default=DEMO_MODEL)
    arguments = parser.parse_args()
    if arguments.n < 1:
        parser.error(f"-n must be at least 1, got {arguments.n}")
    folder = ensure_folder(arguments.model, load_settings().cache_dir)
    prompt_ids = mix(folder, 1)[0].prompt_ids
    print(HEAD, flush=True)
    for name in arguments.only:
        asyncio.run(measure(MEASUREMENTS[name], arguments.n, arguments.model, prompt_ids))


if __name__ == "__main__":
    main()
