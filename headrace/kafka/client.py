"""Making a client of kafka-python, of whichever kind."""

import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from socket import SHUT_RDWR
from typing import Any

from kafka.errors import KafkaConnectionError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import create_connection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport

from headrace.kafka.refusal import UNANSWERED, explained


class _Selector(NetworkSelector):  # type: ignore[misc]  # kafka-python has no annotations
    """Where a connection is given up in the making, by time or as its client is closed, the client leaves the socket to the garbage
    collector; here it is closed."""

    async def wait_write(self, waiting: Any, *given: Any, **options: Any) -> Any:
        try:
            return await super().wait_write(waiting, *given, **options)
        except BaseException:  # that it is given up too: GeneratorExit
            waiting.close()
            raise


class _Connections(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python has no annotations
    """Knows why the last connection came to nothing: in the end the client says no more than that time is over. Where TLS cannot be agreed
    on, it closes the socket, which the client leaves to the garbage collector, too."""

    failure: BaseException | None = None

    def get_connection(self, *given: Any, **options: Any) -> Any:
        connection = super().get_connection(*given, **options)
        if not connection.init_future.is_done:
            connection.init_future.add_errback(self._note)
        return connection

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        if not self.ssl_enabled:
            return await super()._build_transport(node, timeout_at)
        options = {name: value for name, value in self.config.items() if name.startswith("ssl_")}
        socket = await create_connection(self._net, node.host, node.port, self.config["socket_options"], timeout_at=timeout_at)
        late = _Lateness()
        try:
            transport = KafkaSSLTransport(self._net, socket, host=node.host, **options)
            socket = transport._sock
            # The client would wait for good for a peer that says nothing, such as one that takes this for a part of a request.
            ending = None if timeout_at is None else self._net.call_at(timeout_at, lambda: late.end(socket))
            try:
                await transport.handshake()
            finally:
                if ending is not None:
                    self._net.cancel(ending)
        except BaseException as error:
            socket.close()
            if late.came:
                raise KafkaConnectionError(UNANSWERED) from error
            if isinstance(error, ssl.SSLError):
                raise KafkaConnectionError(f"no TLS: {error}") from error
            raise
        return transport

    def _note(self, error: BaseException) -> None:
        if not isinstance(error, KafkaConnectionError) or error.args:  # without a word it was closed, for another reason
            self.failure = error


class _Lateness:
    """Whether a handshake was given up, and the end of its connection."""

    came = False

    def end(self, socket: Any) -> None:
        self.came = True
        with suppress(OSError):
            socket.shutdown(SHUT_RDWR)  # which wakes whoever waits for it


def open_client(kind: Callable[..., Any], **options: Any) -> Any:
    """`kind(**options)`. Raises KafkaConnectionError, which says why, where its constructor gives up on the brokers. It would leave a
    thread and sockets behind, which nobody could close any more: they are closed here."""
    if not logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        # In an outage it has dozens of lines a second to say, with tracebacks; we have one, and one when it is over.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
    made: list[tuple[KafkaNetClient, _Connections]] = []

    def connections(**own: Any) -> Any:
        net = _Selector(**own)
        manager = _Connections(net, **own)
        # A broker would make a topic that is missing as it makes any: of one partition, which forgets after a week. The client has an
        # option for this and does not pass it on.
        manager.cluster.config["allow_auto_create_topics"] = False
        made.append((KafkaNetClient(net=net, manager=manager, **own), manager))
        return made[-1][0]

    try:
        return kind(kafka_client=connections, **options)
    except BaseException as error:
        for client, _ in made:
            client.close()
        failure = next((manager.failure for _, manager in made if manager.failure is not None), None)
        if isinstance(error, KafkaTimeoutError) and failure is not None:
            raise KafkaConnectionError(explained(failure)) from failure
        raise
