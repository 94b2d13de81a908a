"""A member of a group in a process of its own, to be killed: `python -m headrace.testing.kafka_member SERVERS TOPIC GROUP`.

It is done with every record at once, and says so on standard output, a value a line.
"""

import asyncio
import sys

from headrace.kafka.consumer import LogConsumer

SESSION_MS = 6_000
"""The shortest that brokers take by default."""


async def read(servers: str, topic: str, group: str) -> None:
    async with LogConsumer({"bootstrap_servers": servers.split(",")}, topics=[topic], group=group, session_ms=SESSION_MS) as member:
        while True:
            for record in await member.batch():
                sys.stdout.write(f"{(record.value or b'').decode()}\n")
                sys.stdout.flush()
                member.done(record)


if __name__ == "__main__":
    asyncio.run(read(*sys.argv[1:4]))
