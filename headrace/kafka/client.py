"""Making a client of kafka-python, of whichever kind."""

import logging
import time
from collections.abc import Callable
from ssl import SSLSocket
from typing import Any

from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector


class _Selector(NetworkSelector):  # type: ignore[misc]  # kafka-python has no annotations
    """Where a connection is given up in the making, by time or as its client is closed, the client leaves the socket to the garbage
    collector; here it is closed. And it gives up on everything by time but on TLS: whoever takes a connection and does not answer its
    handshake, as a broker without TLS may, would hold up the caller's thread for good."""

    def __init__(self, handshake_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._handshake_s = handshake_s

    async def wait_write(self, waiting: Any, *given: Any, **options: Any) -> Any:
        try:
            return await super().wait_write(waiting, *given, **options)
        except BaseException:  # that it is given up too: GeneratorExit
            waiting.close()
            raise

    def wait_read(self, waiting: Any, *given: Any, **options: Any) -> Any:
        # There is a version as soon as the two have agreed on one: after that, silence is nothing bad.
        if isinstance(waiting, SSLSocket) and waiting.version() is None:
            return self._wait_for_tls(waiting)
        return super().wait_read(waiting, *given, **options)

    async def _wait_for_tls(self, waiting: SSLSocket) -> Any:
        try:
            return await super().wait_read(waiting, time.monotonic() + self._handshake_s)
        except KafkaTimeoutError as error:
            waiting.close()
            raise KafkaTimeoutError("no answer in TLS: does it speak TLS on this port?") from error
        except BaseException:
            waiting.close()
            raise


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Knows why the last connection came to nothing: the client says that in its log alone."""

    fault: Exception | None = None

    def get_connection(self, *given: Any, **options: Any) -> Any:
        connection = super().get_connection(*given, **options)
        connection.init_future.add_errback(self._failed)
        return connection

    def _failed(self, error: Exception) -> None:
        self.fault = error


def open_client(kind: Callable[..., Any], *, bootstrap_timeout_ms: int, **options: Any) -> Any:
    """`kind(…)`. Where its constructor gives up on the brokers, after about `bootstrap_timeout_ms`, it leaves a thread and sockets behind,
    which nobody could close any more: they are closed here. Raises KafkaError, that of the last connection."""
    if not logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        # In an outage it has dozens of lines a second to say, with tracebacks; we have one, and one when it is over.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
    made: list[tuple[_Manager, Any]] = []

    def connections(**own: Any) -> Any:
        net = _Selector(bootstrap_timeout_ms / 1_000, **own)
        manager = _Manager(net, **own)
        made.append((manager, KafkaNetClient(net=net, manager=manager, **own)))
        return made[-1][1]

    try:
        return kind(kafka_client=connections, bootstrap_timeout_ms=bootstrap_timeout_ms, **options)
    except BaseException as error:
        faults = [manager.fault for manager, _ in made if isinstance(manager.fault, KafkaError)]
        for _, one in made:
            one.close()
        if isinstance(error, KafkaTimeoutError) and faults:
            raise faults[-1] from error
        raise
