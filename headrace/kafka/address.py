"""Where Kafka is and how to log in: from the settings to the options that every client of it takes.

kafka://host[:port],host[:port]...               plain text
kafka+ssl://host[:port],...                      TLS; the certificate must be for the host
kafka://user:password@host...                    SASL, on either
"""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from headrace.errors import SettingsError
from headrace.settings import Settings

DEFAULT_PORT = 9092

_SCHEMES = {"kafka": False, "kafka+ssl": True}
# Not urlsplit: some versions of it refuse several servers of which one is an IPv6 address.
_URL = re.compile(r"(kafka|kafka\+ssl)://(?:([^/?#]*)@)?([^@/?#]+)/?")
_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_BAD = "HEADRACE_QUEUE_URL must be a kafka:// or kafka+ssl:// URL of one server or several: kafka://[user:password@]host[:port][,host[:port]...]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    servers: tuple[str, ...]
    """`host:port` of each server that may be asked for the others."""
    tls: bool = False
    ca_file: str | None = None
    """Who signed the servers' certificates; None: whom the system trusts."""
    sasl: str = "SCRAM-SHA-512"
    user: str | None = None
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Without the password, for people."""
        return f"{'kafka+ssl' if self.tls else 'kafka'}://{','.join(self.servers)}"

    def options(self) -> dict[str, Any]:
        """What a client of kafka-python takes, of whichever kind."""
        protocol = ("SASL_" if self.user is not None else "") + ("SSL" if self.tls else "PLAINTEXT")
        options: dict[str, Any] = {"bootstrap_servers": list(self.servers), "security_protocol": protocol}
        if self.tls:
            options |= {"ssl_check_hostname": True, "ssl_cafile": self.ca_file}
        if self.user is not None:
            options |= {"sasl_mechanism": self.sasl, "sasl_plain_username": self.user, "sasl_plain_password": self.password}
        return options


def address_of(settings: Settings) -> Address | None:
    """None: there is no Kafka. Raises SettingsError, without the URL, which may hold a password."""
    if settings.queue_url is None:
        return None
    parts = _split(settings.queue_url)
    if parts is None:
        raise SettingsError(_BAD + _hint(settings.queue_url))
    tls, login, servers = parts
    user, _, password = map(unquote, login.partition(":"))
    if settings.kafka_password is not None:
        password = settings.kafka_password.get_secret_value()
    name = settings.kafka_user or user or None
    if password and name is None:
        raise SettingsError("HEADRACE_KAFKA_PASSWORD needs a user: HEADRACE_KAFKA_USER, or in HEADRACE_QUEUE_URL")
    if settings.kafka_ca_file is not None and not tls:
        raise SettingsError("HEADRACE_KAFKA_CA_FILE needs kafka+ssl:// in HEADRACE_QUEUE_URL: nothing is encrypted without")
    if settings.kafka_ca_file is not None and not settings.kafka_ca_file.is_file():
        raise SettingsError(f"HEADRACE_KAFKA_CA_FILE: there is no file {settings.kafka_ca_file}")
    ca_file = None if settings.kafka_ca_file is None else str(settings.kafka_ca_file)
    return Address(servers=servers, tls=tls, ca_file=ca_file, sasl=settings.kafka_sasl, user=name, password=password)


def _hint(url: str) -> str:
    """What most likely is wrong with it, of its text nothing."""
    if url.startswith(("kafka://", "kafka+ssl://")) and re.search("[/?#]", url.partition("://")[2]):
        return "; nothing comes behind the servers, options are settings HEADRACE_KAFKA_…, and / ? # in a password are written %2F %3F %23"
    return ""


def _split(url: str) -> tuple[bool, str, tuple[str, ...]] | None:
    """Whether it is TLS, `user:password` as it stands there, and the servers. None: it is no such URL."""
    parts = _URL.fullmatch(url)
    if parts is None:
        return None
    scheme, login, hosts = parts.groups(default="")
    found = [_SERVER.fullmatch(host) for host in hosts.split(",")]
    if not all(found):
        return None
    servers = [(match[1], int(match[2] or DEFAULT_PORT)) for match in found if match is not None]
    if any(not 0 < port < 65_536 for _, port in servers):
        return None
    return _SCHEMES[scheme], login, tuple(f"{host}:{port}" for host, port in servers)
