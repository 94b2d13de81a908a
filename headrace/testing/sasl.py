"""A broker's login for tests, in front of a broker that has none: it answers SaslHandshake and SaslAuthenticate itself, lets nothing but
ApiVersions through before, as brokers do, and everything behind.

SCRAM after RFC 5802 with SHA-512, PLAIN after RFC 4616.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ssl import SSLContext
from typing import Any

from kafka.protocol.sasl import SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse

from headrace.testing.serving import serving, shutting, until_one_ends

_API_VERSIONS = 18
_UNSUPPORTED_MECHANISM, _FAILED = 33, 58
_PIECE = 65_536
_ROUNDS = 4_096


class _Refused(Exception):
    """The password is not this one."""


class _Plain:
    def __init__(self, user: str, password: str) -> None:
        self._expected = f"\0{user}\0{password}".encode()
        self.done = False

    def answer(self, token: bytes) -> bytes:
        _, _, login = token.partition(b"\0")
        if not hmac.compare_digest(b"\0" + login, self._expected):
            raise _Refused
        self.done = True
        return b""


class _Scram:
    def __init__(self, user: str, password: str) -> None:
        self._salt = secrets.token_bytes(16)
        self._salted = hashlib.pbkdf2_hmac("sha512", password.encode(), self._salt, _ROUNDS)
        self._user = user.encode()
        self._said = b""
        self.done = False

    def answer(self, token: bytes) -> bytes:
        return self._last(token) if self._said else self._first(token)

    def _first(self, token: bytes) -> bytes:
        bare = token.removeprefix(b"n,,")
        user, nonce = bare.removeprefix(b"n=").split(b",r=")
        if user != self._user:
            raise _Refused
        answer = b"r=%s%s,s=%s,i=%d" % (nonce, secrets.token_hex(8).encode(), base64.b64encode(self._salt), _ROUNDS)
        self._said = bare + b"," + answer
        return answer

    def _last(self, token: bytes) -> bytes:
        without_proof, _, proof = token.partition(b",p=")
        said = self._said + b"," + without_proof
        stored = hashlib.sha512(_signed(self._salted, b"Client Key")).digest()
        key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), _signed(stored, said), strict=True))
        if hashlib.sha512(key).digest() != stored:
            raise _Refused
        self.done = True
        return b"v=" + base64.b64encode(_signed(_signed(self._salted, b"Server Key"), said))


def _signed(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha512")


_MECHANISMS: dict[str, type[_Plain] | type[_Scram]] = {"PLAIN": _Plain, "SCRAM-SHA-512": _Scram}


class SaslGate:
    def __init__(self, user: str, password: str, mechanism: str) -> None:
        self._login = user, password
        self._mechanism = mechanism
        self.upstream = 0
        """The broker's port."""
        self.port = 0
        self.admitted = 0
        """Connections that logged in."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
            async with shutting(up_writer):
                if await self._logged_in(reader, writer, up_reader, up_writer):
                    self.admitted += 1
                    await until_one_ends(_carry(reader, up_writer), _carry(up_reader, writer))

    async def _logged_in(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up_reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter
    ) -> bool:
        """False: whoever it is asked for something without."""
        exchange = _MECHANISMS[self._mechanism](*self._login)
        while not exchange.done:
            frame = await _frame(reader)
            key, version = struct.unpack_from(">hh", frame)
            if key == _API_VERSIONS:
                up_writer.write(struct.pack(">i", len(frame)) + frame)
                answer = await _frame(up_reader)
                writer.write(struct.pack(">i", len(answer)) + answer)
            elif key == SaslHandshakeRequest.API_KEY:
                asked = SaslHandshakeRequest.decode(frame, version=version, header=True)
                wrong = asked.mechanism != self._mechanism
                _reply(writer, asked, SaslHandshakeResponse(error_code=_UNSUPPORTED_MECHANISM * wrong, mechanisms=[self._mechanism]))
            elif key == SaslAuthenticateRequest.API_KEY:
                asked = SaslAuthenticateRequest.decode(frame, version=version, header=True)
                _reply(writer, asked, _authenticated(exchange, asked.auth_bytes))
            else:
                return False
        await writer.drain()
        return True


def _authenticated(exchange: _Plain | _Scram, token: bytes) -> Any:
    fields: dict[str, Any] = {"error_code": 0, "error_message": None, "auth_bytes": b"", "session_lifetime_ms": 0}
    try:
        fields["auth_bytes"] = exchange.answer(bytes(token))
    except _Refused:
        fields |= {"error_code": _FAILED, "error_message": "Authentication failed: invalid credentials"}
    return SaslAuthenticateResponse(**fields)


def _reply(writer: asyncio.StreamWriter, asked: Any, response: Any) -> None:
    response.API_VERSION = asked.header.request_api_version
    response.with_header(correlation_id=asked.header.correlation_id)
    writer.write(bytes(response.encode(framed=True, header=True)))


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(_PIECE):
            sink.write(data)
            await sink.drain()


@asynccontextmanager
async def sasl_gate(user: str, password: str, mechanism: str, tls: SSLContext | None = None) -> AsyncIterator[SaslGate]:
    """`mechanism`: PLAIN or SCRAM-SHA-512, the one that it has enabled. Its `upstream` is to be set."""
    gate = SaslGate(user, password, mechanism)
    async with serving(gate.handle, tls) as gate.port:
        yield gate
