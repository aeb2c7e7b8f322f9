"""The agent's HTTP server: bounded, timed, and silent about its insides.

In: connections, perhaps hostile. Out: JSON answers, counted bytes, incompressible bytes. Bounds:
10 s from connecting to a head with the token, heads of 16 KiB within 10 s, bodies and sources of
64 MiB, 64 connections and 32 of one peer (`admission`), 120 s of silence between requests, 30 s of
silence and 600 s in all within one. A request over a bound is answered with its status where that
can be, and its connection is closed.
"""

from __future__ import annotations

import hmac
import json
import os
import random
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cr2fast_profiler.agent.admission import Admission, peer_of
from cr2fast_profiler.agent.wire import MAX_HEAD_BYTES, MAX_TRANSFER_BYTES
from cr2fast_profiler.clock import SYSTEM, Now

HANDSHAKE_S, HEAD_S, IDLE_S, SILENCE_S, TRANSFER_S = 10.0, 10.0, 120.0, 30.0, 600.0

Routes = Mapping[str, Callable[[], dict[str, Any]]]


class Server(ThreadingHTTPServer):
    """A thread for each connection; remembers open ones to bound and to end them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(
        self,
        address: tuple[Any, ...],
        family: socket.AddressFamily,
        token: str | None,
        routes: Routes,
        clock: Now = SYSTEM,
    ) -> None:
        self.address_family = family
        self.clock, self.admission = clock, Admission()
        self.routes = routes
        self.credential = None if token is None else f"Bearer {token}".encode()
        # Random bytes do not compress, and making them within a transfer would slow it.
        self.noise = memoryview(os.urandom(1 << 20))
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Bind without the base class's look-up of a domain name, which may hang."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse a connection too many; end one that is missed less."""
        admitted, ended = self.admission.admit(request, peer_of(str(client_address[0])))
        if isinstance(ended, socket.socket):
            _end(ended)
        return admitted

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that ended."""
        self.admission.leave(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line what failed; a client that hangs up is not worth one."""
        error = sys.exception() if sys.version_info >= (3, 11) else sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"agent: {type(error).__name__}: {error}", file=sys.stderr)

    def server_close(self) -> None:
        """Close, ending the connections that are open."""
        super().server_close()
        for connection in self.admission.all():
            if isinstance(connection, socket.socket):
                _end(connection)


def _end(connection: socket.socket) -> None:
    """End a connection that another thread reads: it finds the end of it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class Reader:
    """What the handler reads from: lines of a bounded head, then bodies, against deadlines."""

    def __init__(self, connection: socket.socket, clock: Now = SYSTEM) -> None:
        self._connection, self._clock = connection, clock
        self._data = b""
        self._deadline = self._in(HANDSHAKE_S)
        self._left = 0
        self.proven = False

    def _in(self, seconds: float) -> int:
        return self._clock() + round(seconds * 1e9)

    def start_head(self) -> bool:
        """Wait for a request; False when none comes. A stranger has one deadline for all."""
        self._left = MAX_HEAD_BYTES
        if self.proven and not self._data:
            self._deadline = self._in(IDLE_S)
        if not self._data:
            self._data = self._receive(IDLE_S)
        if self.proven:
            self._deadline = self._in(HEAD_S)
        return bool(self._data)

    def start_body(self) -> None:
        """Give the body its own time."""
        self._deadline = self._in(TRANSFER_S)

    def _receive(self, silence_s: float = SILENCE_S) -> bytes:
        left_s = (self._deadline - self._clock()) * 1e-9
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(min(left_s, silence_s))
        return self._connection.recv(1 << 18)

    def readline(self, limit: int = MAX_HEAD_BYTES) -> bytes:
        """Read one line of the head, as ``http.server`` asks for it."""
        while (end := self._data.find(b"\n")) < 0 and len(self._data) <= self._left:
            chunk = self._receive()
            if not chunk:
                raise ConnectionResetError
            self._data += chunk
        size = end + 1 if end >= 0 else len(self._data)
        if size > min(self._left, limit):
            raise LineTooLong("header line")
        self._left -= size
        line, self._data = self._data[:size], self._data[size:]
        return line

    def count(self, size: int) -> int:
        """Read and drop `size` bytes; fewer come only when the client hangs up."""
        got = min(len(self._data), size)
        self._data = self._data[got:]
        while got < size:
            chunk = self._receive()
            if not chunk:
                break
            got += len(chunk)
            if got > size:
                self._data = chunk[len(chunk) - (got - size) :]
                got = size
        return got

    def close(self) -> None:
        """Nothing to release: the connection is the handler's."""


class Handler(BaseHTTPRequestHandler):
    """One connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        """Read through :class:`Reader`."""
        super().setup()
        self.headers = self.MessageClass()
        self.rfile.close()
        self.reader = Reader(self.connection, self.server.clock)
        self.rfile = self.reader  # type: ignore[assignment]

    def handle_one_request(self) -> None:
        """Read one request and answer it."""
        self.close_connection = True
        try:
            if not self.reader.start_head():
                return
            self.raw_requestline = self.reader.readline()
            if not self.parse_request():
                return
            self._dispatch()
        except ValueError as e:  # of urllib, on targets that are none
            self._refuse(400, f"expected a route: {e}")
        except LineTooLong:
            self._refuse(431, f"expected a head of at most {MAX_HEAD_BYTES} bytes")
        except OSError:
            self.close_connection = True

    def _dispatch(self) -> None:
        size = self._body_size()
        if size is None:
            return
        credential = self.server.credential
        sent = (self.headers.get("Authorization") or "").encode("latin-1", "replace")
        if credential is not None and not hmac.compare_digest(sent, credential):
            self._refuse(401, "expected the agent's token: Authorization: Bearer TOKEN")
            return
        self.reader.proven = True
        self.server.admission.serve(self.connection)
        try:
            self._route(size)
        finally:
            self.server.admission.rest(self.connection)

    def _route(self, size: int) -> None:
        target = urlsplit(self.path)
        call = f"{self.command} {target.path}"
        if call == "POST /sink":
            self.reader.start_body()
            if self.reader.count(size) == size:
                self._send(200, json.dumps({"bytes": size}).encode())
            else:
                self.close_connection = True
            return
        if size:
            self._refuse(413, "expected no body on this route")
        elif call == "GET /ping":
            self._send(200, b"{}")
        elif call == "GET /source":
            self._source(target.query)
        elif self.command == "GET" and target.path in self.server.routes:
            self._answer(self.server.routes[target.path])
        else:
            known = ", ".join(["/ping", "/sink", "/source", *self.server.routes])
            self._refuse(404, f"expected one of the routes {known}")

    def _body_size(self) -> int | None:
        lengths = self.headers.get_all("Content-Length") or ["0"]
        if self.headers.get("Transfer-Encoding") is not None or len(lengths) != 1:
            self._refuse(400, "expected one Content-Length and no Transfer-Encoding")
        elif not (lengths[0].isascii() and lengths[0].isdigit()):
            self._refuse(400, "Content-Length: expected a whole number")
        elif len(lengths[0]) > 18 or int(lengths[0]) > MAX_TRANSFER_BYTES:
            self._refuse(413, f"expected a body of at most {MAX_TRANSFER_BYTES} bytes")
        else:
            return int(lengths[0])
        return None

    def _source(self, query: str) -> None:
        values = parse_qs(query, max_num_fields=8).get("bytes", [""])
        text = values[0]
        if not (len(values) == 1 and text.isascii() and text.isdigit() and len(text) < 19):
            self._refuse(400, "bytes: expected a whole number")
            return
        size = int(text)
        if size > MAX_TRANSFER_BYTES:
            self._refuse(413, f"bytes: expected at most {MAX_TRANSFER_BYTES}")
            return
        noise = self.server.noise
        at = random.randrange(len(noise))
        self.connection.settimeout(SILENCE_S)
        deadline_ns = self.server.clock() + round(TRANSFER_S * 1e9)
        message = _head(200, size, "application/octet-stream", False) + noise[at : at + size]
        left = size - (min(at + size, len(noise)) - at)
        self.connection.sendall(message)
        while left > 0 and self.server.clock() < deadline_ns:
            part = noise[: min(left, len(noise))]
            self.connection.sendall(part)
            left -= len(part)
        self.close_connection = left > 0

    def _refuse(self, status: int, words: str) -> None:
        # What is left of the request was not read: the connection cannot go on.
        self.close_connection = True
        self._send(status, json.dumps({"error": words}).encode(), close=True)

    def _answer(self, route: Callable[[], dict[str, Any]]) -> None:
        try:
            body = json.dumps(route(), allow_nan=False).encode()
        except Exception as e:  # whatever a sensor does, a client learns no more than this
            print(f"agent: {self.path}: {type(e).__name__}: {e}", file=sys.stderr)
            self._refuse(500, "the agent failed; its own output says how")
            return
        self._send(200, body)

    def _send(self, status: int, body: bytes, *, close: bool = False) -> None:
        self.close_connection = close or self.close_connection
        self.connection.settimeout(SILENCE_S)
        # One segment: head and body apart would measure the second's delay.
        head = _head(status, len(body), "application/json", self.close_connection)
        self.connection.sendall(head + body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what ``http.server`` refuses by itself."""
        self._refuse(int(code), message or "bad request")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep silent: a line a probe would slow the probes."""


def _head(status: int, size: int, kind: str, close: bool) -> bytes:
    words = BaseHTTPRequestHandler.responses.get(status, ("", ""))[0]
    end = "Connection: close\r\n" if close else ""
    return (
        f"HTTP/1.1 {status} {words}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n{end}\r\n"
    ).encode("ascii")
