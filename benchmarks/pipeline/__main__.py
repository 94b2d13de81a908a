"""What the queue costs a request: python -m benchmarks.pipeline [--queue redis,kafka] [--clients 1,16,64] [--json FILE]

A `headrace up` for each queue, on the scripted engine, which makes up tokens at once, and a Valkey that fsyncs every write; for kafka a
broker too, in memory unless HEADRACE_TEST_KAFKA names a real one. They all run at once and are asked in turn, so that whatever else the
machine does meets each of them: the ratios say more than the figures. The clients share the machine with them.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import orjson

from benchmarks.pipeline.measure import accepting, first_tokens
from benchmarks.pipeline.sample import Samples, table
from headrace.testing.kafka import broker, new_site
from headrace.testing.kafka_bench import make_topics
from headrace.testing.tree import running_tree

QUEUES = ("redis", "kafka")
WARM_S = 1.0
ENVIRON = {"HEADRACE_ENGINE": "scripted", "HEADRACE_LOG_LEVEL": "warning"}


@contextmanager
def kafka(folder: Path) -> Iterator[Mapping[str, str]]:
    """Settings of a tree with topics of its own."""
    with ExitStack() as stack:
        servers = stack.enter_context(broker(folder / "broker.log"))
        site = new_site(servers)
        make_topics(site)
        yield {"HEADRACE_QUEUE_URL": f"kafka://{servers}", "HEADRACE_KAFKA_PREFIX": site.prefix}


@contextmanager
def apis(queues: Sequence[str], folder: Path) -> Iterator[dict[str, str]]:
    """URLs by queue."""
    with ExitStack() as stack:
        urls = {}
        for queue in queues:
            own = stack.enter_context(kafka(folder)) if queue == "kafka" else {}
            urls[queue] = stack.enter_context(running_tree(folder / queue, {**ENVIRON, **own})).url
        yield urls


async def measure(urls: Mapping[str, str], clients: Sequence[int], arguments: argparse.Namespace) -> dict[str, Samples]:
    samples = {queue: Samples() for queue in urls}
    for url in urls.values():
        await accepting(url, max(clients), WARM_S)
    for number in range(arguments.rounds):
        for count in clients:
            for queue, url in urls.items():
                run = await accepting(url, count, arguments.seconds)
                samples[queue].accepting.setdefault(count, []).append(run)
                sys.stderr.write(f"round {number + 1}: {queue}, {count} clients: {run.rate:.0f}/s\n")
        for queue, url in urls.items():
            samples[queue].first_tokens += await first_tokens(url, arguments.streams)
    return samples


def queue_names(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := sorted(set(chosen).difference(QUEUES)):
        raise argparse.ArgumentTypeError(f"no queue {', '.join(unknown)}; there are {', '.join(QUEUES)}")
    return chosen


def counts(text: str) -> list[int]:
    chosen = [int(word) for word in text.split(",")]
    if min(chosen) < 1:
        raise argparse.ArgumentTypeError(f"clients must be at least 1, got {min(chosen)}")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", type=queue_names, default=list(QUEUES), help=f"comma-separated: {', '.join(QUEUES)}")
    parser.add_argument("--clients", type=counts, default=[1, 16, 64], help="at once, comma-separated")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=30, help="of each round, one after the other")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    if inherited := sorted(name for name in os.environ if name in ("HEADRACE_QUEUE_URL", "HEADRACE_REDIS_URL")):
        parser.error(f"{', '.join(inherited)} must not be set: it has a store and a broker of its own")
    with tempfile.TemporaryDirectory(prefix="headrace-pipeline-") as folder, apis(arguments.queue, Path(folder)) as urls:
        samples = asyncio.run(measure(urls, arguments.clients, arguments))
    figures = {queue: found.figures() for queue, found in samples.items()}
    print("\n".join(table(figures)))
    if arguments.json is not None:
        arguments.json.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
