"""Brokers behind TLS, and brokers that ask for a login: whoever may not get through is told in time what to look at, and no password."""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trustme

from headrace.errors import LogUnavailable
from headrace.kafka.address import Address, address_of
from headrace.kafka.consumer import LogConsumer
from headrace.kafka.producer import ANSWER_S, LogProducer
from headrace.kafka.reader import LogReader
from headrace.kafka.topics import Topics, create, shapes
from headrace.settings import Settings
from headrace.testing.eventually import eventually
from headrace.testing.kafka import tansu
from headrace.testing.proxy import proxy_to
from headrace.testing.sasl import sasl_gate

pytestmark = pytest.mark.kafka

PASSWORD, WRONG = "correct horse %/@:", "hunter2-battery"
USER = "api"
TOPICS = Topics("headrace")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    return tmp_path / "authority.pem"


def met_with(authority: trustme.CA, host: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


@asynccontextmanager
async def behind_tls(folder: Path, context: ssl.SSLContext | None) -> AsyncIterator[str]:
    """`host:port` of a broker there; None: it is in plain text."""
    async with proxy_to("http://127.0.0.1:0", tls=context) as wire:
        with tansu(folder / "tansu.log", advertised_port=wire.port) as broker:
            wire.upstream = f"http://127.0.0.1:{broker.port}"
            yield broker.servers


@asynccontextmanager
async def behind_login(folder: Path, mechanism: str, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    async with sasl_gate(USER, PASSWORD, mechanism, context) as gate:
        with tansu(folder / "tansu.log", advertised_port=gate.port) as broker:
            gate.upstream = broker.port
            yield broker.servers


def settings_of(url: str, **others: object) -> Settings:
    return Settings(queue_url=url, kafka_partitions=2, **others)  # type: ignore[arg-type]  # pydantic checks them


async def works(settings: Settings) -> None:
    """Every kind of client: topics are made, a record goes in, is read whole, and comes to a member of a group."""
    address = address_of(settings)
    assert address is not None
    assert len(await asyncio.to_thread(create, address, shapes(settings))) == 5
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(LogProducer(address, [TOPICS.accepted], timeout_s=5.0))
        assert log.down is None
        await log.append(TOPICS.accepted, b"key", b"value")
        found = [record.value async for batch in LogReader(address.options()).read(TOPICS.accepted) for record in batch]
        assert found == [b"value"]
        member = await stack.enter_async_context(LogConsumer(address.options(), topics=[TOPICS.accepted], group="g"))
        async with asyncio.timeout(20):
            assert [record.value for record in await member.batch()] == [b"value"]


async def is_refused(settings: Settings, caplog: pytest.LogCaptureFixture, *words: str) -> None:
    address = address_of(settings)
    assert address is not None
    await is_kept_out(address, settings, caplog, *words)


async def is_kept_out(address: Address, settings: Settings, caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """In time, with all these words, by what the API, the pump and `headrace kafka init` go by."""
    caplog.set_level(logging.INFO)
    started = time.monotonic()
    async with LogProducer(address, [TOPICS.accepted], timeout_s=5.0) as log:
        told = [await eventually(lambda: _down(log))]
        with pytest.raises(LogUnavailable) as caught:
            await log.append(TOPICS.accepted, b"key", b"value")
    told.append(str(caught.value))
    assert time.monotonic() - started < 2 * ANSWER_S + 1
    async with LogConsumer(address.options(), topics=[TOPICS.accepted], group="g"):
        await eventually(lambda: _warned(caplog, "broker is unreachable"))
    told.append(await asyncio.to_thread(_refusal_of_init, address, settings))
    assert [text for text in told if str(address) not in text] == []
    for text in (*told, next(message for message in caplog.messages if "broker is unreachable" in message)):
        assert [word for word in words if word not in text] == [], text
    everything = f"{told} {caplog.text} {address!r}"
    assert PASSWORD not in everything
    assert WRONG not in everything


async def _down(log: LogProducer) -> str | None:
    return log.down if log.down is not None and "not been reached yet" not in log.down else None


async def _warned(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return any(words in message for message in caplog.messages)


def _refusal_of_init(address: Address, settings: Settings) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.kafka.topics.ANSWER_S", 1.0)
        with pytest.raises(LogUnavailable) as caught:
            create(address, shapes(settings))
    return str(caught.value)


async def test_a_certificate_that_is_trusted(authority: trustme.CA, trusted: Path, tmp_path: Path) -> None:
    async with behind_tls(tmp_path, met_with(authority)) as servers:
        await works(settings_of(f"kafka+ssl://{servers}", kafka_ca_file=trusted))


@pytest.mark.parametrize("knows", [lambda folder: None, lambda folder: _other_authority(folder)], ids=["the system's", "another"])
async def test_one_that_nobody_knows(
    authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture, knows: Callable[[Path], Path | None]
) -> None:
    async with behind_tls(tmp_path, met_with(authority)) as servers:
        settings = settings_of(f"kafka+ssl://{servers}", kafka_ca_file=knows(tmp_path))
        await is_refused(settings, caplog, "certificate verify failed", "HEADRACE_KAFKA_CA_FILE")


def _other_authority(folder: Path) -> Path:
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    return folder / "other.pem"


@pytest.mark.parametrize("host", ["192.0.2.1", "elsewhere.example"])
async def test_one_of_somebody_else(
    authority: trustme.CA, trusted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    async with behind_tls(tmp_path, met_with(authority, host)) as servers:
        settings = settings_of(f"kafka+ssl://{servers}", kafka_ca_file=trusted)
        await is_refused(settings, caplog, "mismatch", "HEADRACE_QUEUE_URL")


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["gone", "no certificate"])
async def test_an_authority_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str | None) -> None:
    """One that is not there from the start is a fault of the settings, and told before anybody connects."""
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(content or "")
    async with behind_tls(tmp_path, None) as servers:
        settings = settings_of(f"kafka+ssl://{servers}", kafka_ca_file=ca_file)
        address = address_of(settings)
        assert address is not None
        if content is None:
            ca_file.unlink()
        await is_kept_out(address, settings, caplog, "HEADRACE_KAFKA_CA_FILE must be a file")


async def test_no_tls_where_it_is_asked_for(trusted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with behind_tls(tmp_path, None) as servers:
        await is_refused(settings_of(f"kafka+ssl://{servers}", kafka_ca_file=trusted), caplog, "is there TLS at this port?")


async def test_tls_where_none_is_asked_for(authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with behind_tls(tmp_path, met_with(authority)) as servers:
        await is_refused(settings_of(f"kafka://{servers}"), caplog, "disconnected", "kafka+ssl://")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_a_user_with_the_right_password(mechanism: str, tmp_path: Path) -> None:
    async with behind_login(tmp_path, mechanism) as servers:
        await works(settings_of(f"kafka://{USER}@{servers}", kafka_sasl=mechanism, kafka_password=PASSWORD))


async def test_a_login_in_the_url_through_tls(authority: trustme.CA, trusted: Path, tmp_path: Path) -> None:
    async with behind_login(tmp_path, "SCRAM-SHA-512", met_with(authority)) as servers:
        await works(settings_of(f"kafka+ssl://{USER}:correct%20horse%20%25%2F%40%3A@{servers}", kafka_ca_file=trusted))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
@pytest.mark.parametrize(("user", "password"), [(USER, WRONG), ("nobody", PASSWORD)])
async def test_a_login_that_is_refused(mechanism: str, user: str, password: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with behind_login(tmp_path, mechanism) as servers:
        settings = settings_of(f"kafka://{user}@{servers}", kafka_sasl=mechanism, kafka_password=password)
        await is_refused(settings, caplog, "invalid credentials", "HEADRACE_KAFKA_USER", "HEADRACE_KAFKA_PASSWORD")


async def test_a_mechanism_that_is_not_enabled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with behind_login(tmp_path, "PLAIN") as servers:
        settings = settings_of(f"kafka://{USER}@{servers}", kafka_password=PASSWORD)
        await is_refused(settings, caplog, "HEADRACE_KAFKA_SASL")


async def test_no_login_where_one_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with behind_login(tmp_path, "PLAIN") as servers:
        await is_refused(settings_of(f"kafka://{servers}"), caplog, "Unable to bootstrap")
