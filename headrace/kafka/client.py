"""Making a client of kafka-python, of whichever kind."""

import logging
from collections.abc import Callable
from typing import Any

from kafka.net.compat import KafkaNetClient
from kafka.net.selector import NetworkSelector


class _Selector(NetworkSelector):  # type: ignore[misc]  # kafka-python has no annotations
    """Where a connection is given up in the making, by time or as its client is closed, the client leaves the socket to the garbage
    collector; here it is closed."""

    async def wait_write(self, waiting: Any, *given: Any, **options: Any) -> Any:
        try:
            return await super().wait_write(waiting, *given, **options)
        except BaseException:  # that it is given up too: GeneratorExit
            waiting.close()
            raise


def open_client(kind: Callable[..., Any], **options: Any) -> Any:
    """`kind(**options)`. Where its constructor gives up on the brokers, it leaves a thread and sockets behind, which nobody could close any
    more: they are closed here."""
    if not logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        # In an outage it has dozens of lines a second to say, with tracebacks; we have one, and one when it is over.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
    made: list[Any] = []

    def connections(**own: Any) -> Any:
        made.append(KafkaNetClient(net=_Selector(**own), **own))
        return made[-1]

    try:
        return kind(kafka_client=connections, **options)
    except BaseException:
        for one in made:
            one.close()
        raise
