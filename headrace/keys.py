"""API keys: each speaks for a tenant. A file holds their hashes, one a line; blank lines and lines that begin with # are left out.

    # the nightly report
    2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae reports

A key has 256 random bits, so its plain SHA-256 cannot be turned back; a slow password hash would only hold up every request.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from headrace.errors import SettingsError

ANYBODY = "default"
"""The tenant of every caller where there are no keys."""

_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{1,256}")
_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+(\S+)")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FOUND_BY = 8
"""Bytes of a hash by which it is found; the whole is then compared in constant time."""


def new_key() -> str:
    return f"hr_{secrets.token_urlsafe(32)}"


def is_key(text: str) -> bool:
    """Whether `text` could be a key: what a Bearer token may consist of (RFC 6750)."""
    return _KEY.fullmatch(text) is not None


def bearer_key(credentials: str) -> str | None:
    """The key in `Bearer <key>`; None if it is anything else."""
    bearer = _BEARER.fullmatch(credentials)
    return bearer[1] if bearer is not None and is_key(bearer[1]) else None


def is_tenant(text: str) -> bool:
    return _TENANT.fullmatch(text) is not None


def key_line(key: str, tenant: str) -> str:
    """The key's line in a keys file."""
    return f"{_digest(key).hex()} {tenant}"


def reaches_others(host: str) -> bool:
    """Whether whoever listens on `host` can be reached from other machines; a name other than localhost counts as yes."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


class Keys:
    """The keys of a file."""

    def __init__(self, tenants: Mapping[bytes, str]) -> None:
        """Tenants by the SHA-256 of their keys."""
        self._found = {digest[:_FOUND_BY]: (digest, tenant) for digest, tenant in tenants.items()}

    def __len__(self) -> int:
        return len(self._found)

    @property
    def tenants(self) -> frozenset[str]:
        return frozenset(tenant for _, tenant in self._found.values())

    def tenant_of(self, key: str) -> str | None:
        digest = _digest(key)
        known, tenant = self._found.get(digest[:_FOUND_BY], (b"", ""))
        return tenant if hmac.compare_digest(known, digest) else None


def read_keys(path: Path) -> Keys:
    """Raises SettingsError if the file cannot be read, has no key or a malformed line; it names the line and shows nothing of it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"the keys file {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SettingsError(f"the keys file {path} is not UTF-8") from None
    try:
        return Keys(parse_keys(text))
    except ValueError as error:
        raise SettingsError(f"the keys file {path}: {error}") from None


def parse_keys(text: str) -> dict[bytes, str]:
    """Tenants by the SHA-256 of their keys. Raises ValueError that names the line at fault and shows nothing of it."""
    tenants: dict[bytes, str] = {}
    lines: dict[bytes, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} must be the 64 hex digits of a key's SHA-256, a space and a tenant")
        if not is_tenant(match[2]):
            raise ValueError(f"line {number}: a tenant's name is 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit")
        digest = bytes.fromhex(match[1])
        if digest in lines:
            raise ValueError(f"line {number} has the same key as line {lines[digest]}")
        tenants[digest], lines[digest] = match[2], number
    if not tenants:
        raise ValueError("it holds no key, so nobody could call")
    return tenants


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
