"""Kafka in front of the processes that tests start, if the run asks for it: `pytest --queue kafka`."""

import os
from pathlib import Path

VARIABLE = "HEADRACE_TEST_QUEUE_URL"
"""What HEADRACE_QUEUE_URL is for them. Not set as that: tests of settings and commands would read it too."""


def queue_environ(folder: Path) -> dict[str, str]:
    """Settings of processes that share a store. Its topics are its own, and the same whenever the same `folder` is given: a pump
    that finds a new store behind old topics fills it with their requests."""
    url = os.environ.get(VARIABLE)
    if url is None:
        return {}
    # Not above: trees and APIs are started without Kafka too, by programs that need not have its package.
    from headrace.testing.kafka import new_site
    from headrace.testing.kafka_bench import make_topics

    note = folder.with_name(f"{folder.name}.kafka-prefix")
    if not note.exists():
        site = new_site(url.removeprefix("kafka://"))
        make_topics(site)
        note.write_text(site.prefix)
    return {"HEADRACE_QUEUE_URL": url, "HEADRACE_KAFKA_PREFIX": note.read_text()}
