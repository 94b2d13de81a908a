"""A store behind TLS: a certificate that proves nothing is refused, and the refusal says so."""

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from headrace.embedded import EmbeddedValkey
from headrace.errors import QueueUnavailable
from headrace.queues.redis import RedisQueue
from headrace.testing.proxy import Proxy, proxy_to

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")

KEY, CERTIFICATE = "key.pem", "certificate.pem"


def make_certificate(folder: Path, address: str) -> None:
    """For a server at this IP address, signed by itself."""
    made = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/CN=store"]
    subprocess.run(
        ["openssl", "req", *made, "-addext", f"subjectAltName=IP:{address}", "-keyout", folder / KEY, "-out", folder / CERTIFICATE],
        check=True,
        capture_output=True,
    )


@pytest.fixture
async def wire(valkey: EmbeddedValkey, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Proxy]:
    """TLS in front of the server, with a certificate for the address that the test names."""
    make_certificate(tmp_path, getattr(request, "param", "127.0.0.1"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / CERTIFICATE, tmp_path / KEY)
    async with proxy_to(unquote(urlsplit(valkey.url).path), tls=context) as proxy:
        yield proxy


async def test_a_certificate_that_is_trusted(wire: Proxy, tmp_path: Path) -> None:
    queue = await RedisQueue.connect(f"rediss://127.0.0.1:{wire.port}/0?ssl_ca_certs={tmp_path / CERTIFICATE}")
    await queue.ping()
    await queue.aclose()


async def test_one_that_nobody_knows(wire: Proxy) -> None:
    with pytest.raises(QueueUnavailable, match="certificate verify failed"):
        await RedisQueue.connect(f"rediss://:secret@127.0.0.1:{wire.port}/0")


@pytest.mark.parametrize("wire", ["192.0.2.1"], indirect=True)
async def test_one_of_somebody_else(wire: Proxy, tmp_path: Path) -> None:
    with pytest.raises(QueueUnavailable, match="IP address mismatch"):
        await RedisQueue.connect(f"rediss://127.0.0.1:{wire.port}/0?ssl_ca_certs={tmp_path / CERTIFICATE}")


async def test_no_tls_where_there_should_be(wire: Proxy) -> None:
    with pytest.raises(QueueUnavailable):
        await RedisQueue.connect(f"redis://127.0.0.1:{wire.port}/0")
