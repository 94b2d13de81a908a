"""How a client gives up, and what it leaves behind. Warnings are errors here, and one that is told by the garbage collector is, too."""

import gc
import socket
from contextlib import ExitStack

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from headrace.kafka.client import open_client


def test_a_connection_in_the_making_is_closed_with_its_client() -> None:
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        # It holds one that nobody accepts, and answers no other.
        for _ in range(2):
            crowd = stack.enter_context(socket.socket())
            crowd.setblocking(False)
            crowd.connect_ex(deaf.getsockname())
        with pytest.raises(KafkaError):
            open_client(KafkaAdminClient, bootstrap_servers=[f"127.0.0.1:{deaf.getsockname()[1]}"], bootstrap_timeout_ms=500)
        gc.collect()


@pytest.mark.timeout(30)
def test_whoever_says_nothing_in_tls_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(KafkaError, match="is there TLS at this port"):
        open_client(
            KafkaAdminClient,
            bootstrap_servers=[f"127.0.0.1:{mute.getsockname()[1]}"],
            security_protocol="SSL",
            bootstrap_timeout_ms=500,
        )
    gc.collect()


def test_giving_up_says_what_became_of_the_connection() -> None:
    with pytest.raises(KafkaError, match="ECONNREFUSED"):
        open_client(KafkaAdminClient, bootstrap_servers=["127.0.0.1:1"], bootstrap_timeout_ms=500)
    gc.collect()
