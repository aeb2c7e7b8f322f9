"""A small HTTP/1.1 client of the agent that times what it does.

In: the agent's address and token. Out: replies with the monotonic clock
at the first byte sent, the first byte received and the last, and the bytes on the wire. Name
resolution, TCP connect and TLS handshake are timed apart, which no general client offers.

Replies are bounded, and anything that is not an agent's answer is an :class:`RequestError` with a
reason a caller can count.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cr2fast_profiler.agent.wire import MAX_HEAD_BYTES
from cr2fast_profiler.clock import SYSTEM, Now
from cr2fast_profiler.errors import ProfilerError
from cr2fast_profiler.redact import safe_url

MAX_REPLY_BYTES = 1 << 20


class RequestError(ProfilerError):
    """A request to the agent that failed.

    Attributes
    ----------
    reason : str
        "unreachable", "timeout", "cut" (the connection ended mid-way), "unauthorized",
        "http_status" or "bad_reply".
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Opened:
    """How long a connection took to open, s."""

    dns_s: float
    connect_s: float
    tls_s: float


@dataclass(frozen=True)
class Reply:
    """An answer and its times.

    Attributes
    ----------
    body : bytes
        Its body; empty where it was counted only.
    body_bytes : int
        Length of the body.
    sent_bytes, received_bytes : int
        Bytes of HTTP on the wire, heads included.
    start_ns, first_ns, end_ns : int
        Before the first byte was sent, at the first byte received, at the last.
    """

    body: bytes
    body_bytes: int
    sent_bytes: int
    received_bytes: int
    start_ns: int
    first_ns: int
    end_ns: int

    @property
    def duration_s(self) -> float:
        """From the first byte sent to the last received."""
        return (self.end_ns - self.start_ns) * 1e-9

    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        try:
            value = json.loads(self.body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise RequestError("bad_reply", f"expected a JSON object, got {self.body[:80]!r}")
        return value


class AgentClient:
    """One kept-alive connection to an agent, opened when needed.

    Parameters
    ----------
    url : str
        "http://host:port" or "https://host:port".
    token : str or None
        The agent's token; never printed.
    timeout_s : float
        Longest wait for any byte.
    clock : callable
        Monotonic ns.
    sockets : callable
        Makes a socket of (family, kind, protocol): a simulated one in tests.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout_s: float = 30.0,
        *,
        clock: Now = SYSTEM,
        sockets: Callable[..., Any] = socket.socket,
    ) -> None:
        self._clock, self._sockets = clock, sockets
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise RequestError(
                "unreachable", f"agent URL: expected http://HOST:PORT, got {safe_url(url)!r}"
            ) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RequestError(
                "unreachable",
                f"agent URL: expected http://HOST:PORT or https://HOST, got {safe_url(url)!r}",
            )
        if parts.username is not None or parts.query or parts.fragment:
            raise RequestError("unreachable", "agent URL: expected no user, query or fragment")
        if not _is_plain(url):
            raise RequestError(
                "unreachable", f"agent URL: expected plain ASCII, got {safe_url(url)!r}"
            )
        if token is not None and not _is_plain(token):
            raise RequestError("unauthorized", "token: expected printable ASCII without spaces")
        self.host = parts.hostname
        self.port = port or (443 if parts.scheme == "https" else 80)
        self.timeout_s = timeout_s
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        name = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{parts.scheme}://{name}:{self.port}{self._prefix}"
        self._headers = f"Host: {name}:{self.port}\r\n"
        if token is not None:
            self._headers += f"Authorization: Bearer {token}\r\n"
        self._socket: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        """Whether a connection is kept."""
        return self._socket is not None

    def open(self) -> Opened:
        """Open a fresh connection, closing the one before."""
        self.close()
        t0 = self._clock()
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as e:
            raise RequestError("unreachable", f"{self.url}: no address: {e}") from None
        dns_ns = self._clock() - t0
        failure = "no address"
        for family, kind, protocol, _, address in found:
            connection = self._sockets(family, kind, protocol)
            try:
                connection.settimeout(self.timeout_s)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                t1 = self._clock()
                connection.connect(address)
                t2 = self._clock()
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_hostname=self.host)
                t3 = self._clock()
            except OSError as e:
                connection.close()
                failure = str(e)
                continue
            self._socket = connection
            return Opened(dns_ns * 1e-9, (t2 - t1) * 1e-9, (t3 - t2) * 1e-9)
        raise RequestError("unreachable", f"{self.url}: {failure}")

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self, method: str, path: str, payload: bytes | None = None, *, keep: bool = True
    ) -> Reply:
        """Send one request on the warm connection and read its whole answer.

        Parameters
        ----------
        method, path : str
            As HTTP writes them.
        payload : bytes, optional
            Body to send.
        keep : bool
            Keep the answer's body, or count its bytes only.
        """
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._headers}"
        if payload is not None:
            head += f"Content-Length: {len(payload)}\r\n"
        message = f"{head}\r\n".encode("ascii") + (payload or b"")
        if self._socket is None:
            self.open()
        try:
            return self._exchange(message, keep)
        except RequestError:
            self.close()
            raise
        except TimeoutError:
            self.close()
            raise RequestError(
                "timeout", f"{self.url}{path}: no byte for {self.timeout_s:g} s"
            ) from None
        except OSError as e:
            self.close()
            raise RequestError("cut", f"{self.url}{path}: {e}") from None

    def _exchange(self, message: bytes, keep: bool) -> Reply:
        assert self._socket is not None
        start = self._clock()
        self._socket.sendall(message)
        data = bytearray()
        first = 0
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise RequestError("bad_reply", f"{self.url}: a head over {MAX_HEAD_BYTES} bytes")
            data += self._receive()
            first = first or self._clock()
        status, headers = _head(bytes(data[:end]), self.url)
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            raise RequestError("bad_reply", f"{self.url}: expected a Content-Length")
        size = int(length)
        keep = keep or status != 200
        if keep and size > MAX_REPLY_BYTES:
            raise RequestError("bad_reply", f"{self.url}: an answer of {size} bytes")
        body = data[end + 4 :]
        count = len(body)
        while count < size:
            chunk = self._receive()
            count += len(chunk)
            if keep:
                body += chunk
        stop = self._clock()
        if count > size:
            raise RequestError("bad_reply", f"{self.url}: bytes after the answer")
        if headers.get("connection", "").lower() == "close":
            self.close()
        if status != 200:
            raise RequestError(
                "unauthorized" if status == 401 else "http_status",
                f"{self.url}: HTTP status {status}: {bytes(body[:120])!r}",
            )
        return Reply(
            bytes(body) if keep else b"", size, len(message), end + 4 + size, start, first, stop
        )

    def _receive(self) -> bytes:
        assert self._socket is not None
        chunk = self._socket.recv(1 << 18)
        if not chunk:
            raise RequestError("cut", f"{self.url}: the connection ended before the answer did")
        return chunk


def _is_plain(text: str) -> bool:
    """Whether a text can stand in a head without ending its line."""
    return all("!" <= c <= "~" for c in text)


def _head(head: bytes, url: str) -> tuple[int, Mapping[str, str]]:
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise RequestError("bad_reply", f"{url}: expected HTTP/1.1, got {head[:40]!r}")
    pairs = (line.partition(":") for line in lines[1:])
    return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}
