"""A store behind TLS: a certificate that proves nothing is refused, and the refusal says so."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import trustme

from headrace.errors import QueueUnavailable
from headrace.queues.redis import RedisQueue
from headrace.testing.proxy import Proxy, proxy_to
from headrace.testing.store import Store


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def wire(valkey: Store, authority: trustme.CA, request: pytest.FixtureRequest) -> AsyncIterator[Proxy]:
    """TLS in front of the server, with a certificate for the address that the test names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(getattr(request, "param", "127.0.0.1")).configure_cert(context)
    async with proxy_to(unquote(urlsplit(valkey.url).path), tls=context) as proxy:
        yield proxy


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    """What a client is told to trust."""
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    return tmp_path / "authority.pem"


async def test_a_certificate_that_is_trusted(wire: Proxy, trusted: Path) -> None:
    queue = await RedisQueue.connect(f"rediss://127.0.0.1:{wire.port}/0?ssl_ca_certs={trusted}")
    await queue.ping()
    await queue.aclose()


async def test_one_that_nobody_knows(wire: Proxy) -> None:
    with pytest.raises(QueueUnavailable, match="certificate verify failed"):
        await RedisQueue.connect(f"rediss://:secret@127.0.0.1:{wire.port}/0")


@pytest.mark.parametrize("wire", ["192.0.2.1"], indirect=True)
async def test_one_of_somebody_else(wire: Proxy, trusted: Path) -> None:
    with pytest.raises(QueueUnavailable, match="IP address mismatch"):
        await RedisQueue.connect(f"rediss://127.0.0.1:{wire.port}/0?ssl_ca_certs={trusted}")


async def test_no_tls_where_there_should_be(wire: Proxy) -> None:
    with pytest.raises(QueueUnavailable):
        await RedisQueue.connect(f"redis://127.0.0.1:{wire.port}/0")
