"""One HTTP/1.1 request over a connection of its own, with the time at which each piece of the answer arrived.

In: an Endpoint and a request's bytes. Out: calls of a Receiver. Times are taken first thing when the loop
hands bytes over, before any parsing. h11 reads the protocol. No proxies: through one, a bench would measure
the proxy.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import h11

from narrows.bench.record import ErrorKind
from narrows.errors import NarrowsError

OUT_OF_SOCKETS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL)


class ExchangeFailed(NarrowsError):
    """The connection or the protocol broke; `kind` says how."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect, and what every request carries."""

    host: str
    port: int
    is_tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


class Receiver(Protocol):
    """Takes an answer as it arrives. `at_s`: the loop's clock when the bytes came in; names of `headers` are
    lower case. `is_complete`: nothing more is worth waiting for, whatever the connection does (a stream has
    said [DONE]).
    """

    @property
    def is_complete(self) -> bool: ...
    def on_status(self, at_s: float, status: int, headers: Mapping[str, str]) -> None: ...
    def on_body(self, at_s: float, data: bytes) -> None: ...


class Exchange(asyncio.Protocol):
    """One connection, one request. `finished` resolves to the time of the answer's end, or raises
    ExchangeFailed.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._loop = asyncio.get_running_loop()
        self._receiver = receiver
        self._http = h11.Connection(h11.CLIENT)
        self._transport: asyncio.WriteTransport | None = None
        self.finished: asyncio.Future[float] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def send(self, endpoint: Endpoint, method: str, path: str, body: bytes = b"") -> float:
        """Writes the whole request; returns when the system had its last byte. Raises ExchangeFailed."""
        if self._transport is None or self._transport.is_closing():
            raise ExchangeFailed("closed", "the server closed the connection before the request was sent")
        headers = {
            "host": endpoint.authority,
            "accept": "text/event-stream, application/json",
            "user-agent": "narrows-bench",
            "connection": "close",
            **endpoint.headers,
        }
        if body:
            headers |= {"content-type": "application/json", "content-length": str(len(body))}
        request = h11.Request(method=method, target=path, headers=list(headers.items()))
        data = (self._http.send(request) or b"") + (self._http.send(h11.Data(data=body)) or b"")
        data += self._http.send(h11.EndOfMessage()) or b""
        self._transport.write(data)
        return self._loop.time()

    def data_received(self, data: bytes) -> None:
        at_s = self._loop.time()
        if self.finished.done():
            return
        try:
            self._http.receive_data(data)
            self._read(at_s)
        except h11.RemoteProtocolError as error:
            self._fail("malformed", f"the answer breaks HTTP/1.1: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        at_s = self._loop.time()
        if self.finished.done():
            return
        if error is not None:
            self._fail("closed", f"the connection broke: {error}")
            return
        # An answer without a length or chunks ends with its connection: h11 knows whether this is one.
        is_begun = self._http.their_state is not h11.SEND_RESPONSE
        with suppress(h11.RemoteProtocolError):
            self._http.receive_data(b"")
            self._read(at_s)
        if not self.finished.done():
            where = "in the middle of its answer" if is_begun else "before it answered"
            self._fail("closed", f"the server closed the connection {where}")

    def close(self) -> None:
        """Idempotent. A request under way is abandoned: the server sees the client go away."""
        if self._transport is not None:
            self._transport.close()
        if self.finished.done() and not self.finished.cancelled():
            self.finished.exception()  # nobody may be waiting any more
        self.finished.cancel()

    def _read(self, at_s: float) -> None:
        """Raises h11.RemoteProtocolError."""
        while (event := self._http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Response):
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                self._receiver.on_status(at_s, event.status_code, headers)
            elif isinstance(event, h11.Data):
                self._receiver.on_body(at_s, bytes(event.data))
            if isinstance(event, h11.EndOfMessage) or self._receiver.is_complete:
                self.finished.set_result(at_s)
                return
            if isinstance(event, h11.ConnectionClosed):
                return

    def _fail(self, kind: ErrorKind, message: str) -> None:
        self.finished.set_exception(ExchangeFailed(kind, message))
        if self._transport is not None:
            self._transport.close()


async def open_exchange(endpoint: Endpoint, receiver: Receiver) -> Exchange:
    """A connection, TLS done. Raises ExchangeFailed: "refused" (theirs) or "client" (this machine is out of
    ports or descriptors).
    """
    loop = asyncio.get_running_loop()
    context = _tls() if endpoint.is_tls else None
    try:
        _, exchange = await loop.create_connection(
            lambda: Exchange(receiver), endpoint.host, endpoint.port, ssl=context
        )
    except OSError as error:
        kind: ErrorKind = "client" if error.errno in OUT_OF_SOCKETS else "refused"
        raise ExchangeFailed(
            kind, f"no connection to {endpoint.authority}: {error.strerror or error}"
        ) from None
    return exchange


@cache
def _tls() -> ssl.SSLContext:
    """Reading the system's certificates takes milliseconds: once."""
    return ssl.create_default_context()
