"""HTTP to one endpoint: credentials for its host alone, redirects, certificates, polite waits.

In: an address, credentials, a request. Out: the response, after redirects that keep method and
body.
What is secret is put on a request beneath the client, and only where it goes to the endpoint's own
host: no log, error or foreign host sees it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx2

from cr2fast_profiler.clock import Clock
from cr2fast_profiler.errors import EndpointError
from cr2fast_profiler.redact import printable, safe_url
from cr2fast_profiler.workload import words
from cr2fast_profiler.workload.exchange import Rejected, RejectedRequest

MOST_BODY = 1 << 22
MOST_HOPS = 5
BACK_OFF = ((0.25, 1.5, 5.0), (1.0, 2.0, 30.0))
"""(first pause, growth, longest) in s of a server that loads, and of one that is busy."""
BUSY = (429, 503, 529)
"""Statuses of a server that asks to be asked again."""
_PORTS = {"http": 80, "https": 443}
_OURS = ("host", "content-length", "transfer-encoding", "connection", "content-type", "accept")


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that can be sent; their values are never shown.

    Raises
    ------
    EndpointError
        A name or a value that no header can have, or one that is the client's own.
    """
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name):
            raise EndpointError(
                "header: expected a name of letters, digits and dashes, such as api-key, got "
                f"{len(name)} characters that are none"
            )
        if name.lower() in _OURS:
            raise EndpointError(f"header: {name} is the client's own to set")
        if not (value and value.isascii() and value.isprintable() and value == value.strip()):
            raise EndpointError(
                f"header {name}: expected printable ASCII; is there a line end or a space around "
                "it? (not shown: it may be a secret)"
            )
    return dict(headers)


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Whom to trust: the system, or SSL_CERT_FILE and SSL_CERT_DIR; and `ca_file` besides.

    Raises
    ------
    EndpointError
        A file that is missing or holds no certificates.
    """
    try:
        context = httpx2.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise EndpointError(
            f"SSL_CERT_FILE or SSL_CERT_DIR: certificates in PEM expected ({error})"
        ) from error
    if ca_file is not None:
        path = Path(ca_file)
        try:
            if path.is_dir():
                context.load_verify_locations(capath=str(path))
            else:
                context.load_verify_locations(cafile=str(path))
        except (OSError, ssl.SSLError) as error:
            why = error.strerror if isinstance(error, FileNotFoundError) else "no certificate in it"
            raise EndpointError(
                f"--ca-file {ca_file}: expected certificates in PEM: {why or error}"
            ) from error
    return context


class _Guarded(httpx2.BaseTransport):
    """Puts credentials on what goes to their host, and on nothing else."""

    def __init__(
        self, inner: httpx2.BaseTransport, base: httpx2.URL, headers: Mapping[str, str], query: str
    ) -> None:
        self._inner, self._base, self._headers, self._query = inner, base, headers, query

    def owns(self, url: httpx2.URL) -> bool:
        """Whether `url` is of the endpoint's host; its own step up to TLS included."""
        base = self._base
        if url.host != base.host:
            return False
        if (url.scheme, _port(url)) == (base.scheme, _port(base)):
            return True
        return (base.scheme, _port(base), url.scheme, _port(url)) == ("http", 80, "https", 443)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send on, with what belongs to it."""
        if not self.owns(request.url):
            return self._inner.handle_request(request)
        url = request.url
        if self._query:
            both = "&".join(q for q in (url.query.decode("ascii"), self._query) if q)
            url = url.copy_with(query=both.encode("utf-8"))
        headers = request.headers.copy()
        headers.update(self._headers)
        sent = httpx2.Request(
            request.method,
            url,
            headers=headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        return self._inner.handle_request(sent)

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


def _port(url: httpx2.URL) -> int:
    return url.port or _PORTS.get(url.scheme, 0)


class Stale(RejectedRequest):
    """A kept connection ended before the answer began: asking once more is no repetition."""


@dataclass
class Patience:
    """How long one request may still wait for a server that is loading or busy."""

    until_ns: int
    tries: int = 0


class Connection:
    """Requests to one endpoint.

    Parameters
    ----------
    base : str
        An URL of its host.
    headers, query : dict, str
        Credentials, and what else belongs to every request.
    timeout_s, wait_s : float
        Longest silence; longest wait for a server that is loading or busy.
    clock : Clock
        What waits are waited on.
    tell : callable
        Says what is waited for.
    scrub : callable
        Takes secrets out of words.
    transport : httpx2.BaseTransport or None
        In place of sockets.
    ca_file : str or None
        Certificates to trust besides.
    """

    def __init__(
        self,
        base: str,
        headers: Mapping[str, str],
        query: str,
        *,
        timeout_s: float,
        wait_s: float,
        clock: Clock,
        tell: Callable[[str], None],
        scrub: Callable[[str], str],
        transport: httpx2.BaseTransport | None,
        ca_file: str | None,
    ) -> None:
        context = tls_context(ca_file) if transport is None or ca_file else None
        # No proxy from the environment: its time would be measured as the model's.
        inner = transport or httpx2.HTTPTransport(verify=context or True, trust_env=False)
        try:
            self._guarded = _Guarded(inner, httpx2.URL(base), headers, query)
        except httpx2.InvalidURL as error:
            raise EndpointError(f"url {safe_url(base)!r}: {error}") from None
        self._client = httpx2.Client(
            headers={"Accept-Encoding": "identity"},
            trust_env=False,
            timeout=httpx2.Timeout(timeout_s, connect=words.CONNECT_S),
            transport=self._guarded,
        )
        self.timeout_s, self.wait_s = timeout_s, wait_s
        self.clock, self.tell, self.scrub = clock, tell, scrub
        self.key_header = next(
            (n for n in headers if re.search(r"auth|key|token|secret", n, re.I)), ""
        )
        self._moved: dict[str, str] = {}
        self._answered = False
        self._query = query
        self.notes: dict[str, None] = {}
        self.waits = 0
        self.waited_s = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextmanager
    def open(
        self, method: str, url: str, body: dict[str, Any] | None = None, **options: Any
    ) -> Iterator[httpx2.Response]:
        """Send a request, follow redirects, yield the response with its body unread.

        Raises
        ------
        RejectedRequest
            Below HTTP something failed, or redirects lead nowhere; :class:`Stale` where a kept
            connection broke before the answer began.
        """
        try:
            try:
                response = self._follow(method, url, body, options)
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as error:
                reason, text = words.of_transport(error, self.timeout_s)
                # A server may close a connection that rested just as the next request goes out.
                kind = Stale if self._answered else RejectedRequest
                raise kind(reason, text) from error
            self._answered = True
            try:
                yield response
            finally:
                response.close()
        except httpx2.InvalidURL as error:
            raise EndpointError(f"url {safe_url(url)!r}: {error}") from None
        except httpx2.HTTPError as error:
            reason, text = words.of_transport(error, options.get("timeout", self.timeout_s))
            raise RejectedRequest(reason, text) from error

    def _follow(
        self, method: str, url: str, body: dict[str, Any] | None, options: dict[str, Any]
    ) -> httpx2.Response:
        target = httpx2.URL(self._moved.get(url, url))
        for _ in range(MOST_HOPS + 1):
            request = self._client.build_request(method, target, json=body, **options)
            response = self._client.send(request, stream=True)
            where = response.headers.get("location", "")
            redirect = response.status_code in (301, 302, 307, 308)
            if redirect and not where:
                response.close()
                raise RejectedRequest(
                    Rejected.HTTP_ERROR,
                    f"{response.status_code}: a redirect that does not say where to",
                )
            if not redirect:
                if str(target) != url and response.status_code < 400:
                    self._moved[url] = str(target)
                    base = re.sub(r"/(chat/completions|completions|models)$", "", str(target))
                    self.notes[f"requests are redirected to {safe_url(base)}"] = None
                return response
            response.close()
            target = self._next(target, where)
        raise RejectedRequest(
            Rejected.HTTP_ERROR,
            f"more than {MOST_HOPS} redirects, the last to {safe_url(str(target))}: give the "
            "address where the API itself is",
        )

    def _next(self, target: httpx2.URL, where: str) -> httpx2.URL:
        try:
            found = target.join(where).copy_with(fragment=None)
        except (httpx2.InvalidURL, ValueError):
            found = None
        if found is None or found.scheme not in _PORTS or not found.host:
            raise RejectedRequest(
                Rejected.HTTP_ERROR, f"redirected to {safe_url(where)!r}, which is no address"
            )
        # Credentials that the server repeats stay on their own host, where they are added anew.
        ours = {k for k, _ in parse_qsl(self._query, keep_blank_values=True)}
        pairs = parse_qsl(found.query.decode("ascii"), keep_blank_values=True)
        query = urlencode([(k, v) for k, v in pairs if k not in ours])
        return found.copy_with(query=query.encode() or None, username=None, password=None)

    def redirected(self, response: httpx2.Response) -> str:
        """The other host that answered, as it may be shown; empty where the endpoint's did."""
        url = response.request.url
        return "" if self._guarded.owns(url) else safe_url(f"{url.scheme}://{url.netloc.decode()}")

    def body(self, response: httpx2.Response) -> str:
        """The body's text up to a bound, without secrets."""
        return self.scrub(received(response).decode("utf-8", "replace"))

    def refusal(self, response: httpx2.Response) -> str:
        """Words for a status that is not 200."""
        text, there = self.body(response), self.redirected(response)
        return words.of_status(response.status_code, text, self.key_header, there)

    def patience(self) -> Patience:
        """A fresh allowance of waiting."""
        return Patience(self.clock() + round(self.wait_s * 1e9))

    def wait(self, response: httpx2.Response, patience: Patience) -> None:
        """Let the time pass that a busy or loading server wants.

        Raises
        ------
        RejectedRequest
            It would be too long, or asking again is no use.
        """
        status, text = response.status_code, words.said(self.body(response))
        doing = "is busy" if status == 429 else "is not ready (loading its model, perhaps)"
        if re.search(r"insufficient[_ ]quota|billing|exceeded your current quota", text, re.I):
            raise RejectedRequest(Rejected.BUSY, f"{status}: {text}")
        left_s = (patience.until_ns - self.clock()) * 1e-9
        pause_s = _retry_after_s(response.headers)
        if pause_s is None:
            first_s, growth, most_s = BACK_OFF[status == 429]
            pause_s = min(first_s * growth**patience.tries, most_s)
            # The last try comes when the time is up.
            pause_s = min(pause_s, left_s) if left_s > 0.01 else pause_s
        patience.tries += 1
        if pause_s > left_s:
            waited_s = self.wait_s - left_s
            asked = f", which asks to wait {pause_s:.0f} s" if pause_s > self.wait_s else ""
            raise RejectedRequest(
                Rejected.BUSY,
                f"the server {doing}: {status}: {text}{asked}; waited for {waited_s:.0f} s: ask "
                "again when it is ready, or allow longer waits by --wait-s",
            )
        if patience.tries == 1:
            self.tell(f"the server {doing}: {status}: {text}; waiting up to {left_s:.0f} s")
        self.waits += 1
        self.waited_s += pause_s
        self.clock.sleep(pause_s)


def received(response: httpx2.Response) -> bytes:
    """The body, up to a bound."""
    parts, size = [], 0
    for part in response.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > MOST_BODY:
            break
    return b"".join(parts)[:MOST_BODY]


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    """The wait that a server asks for, s; None where it names none."""
    ms = headers.get("retry-after-ms", "")
    if re.fullmatch(r"\d{1,9}(\.\d*)?", ms):
        return float(ms) * 1e-3
    text = printable(headers.get("retry-after", ""), 40)
    if re.fullmatch(r"\d{1,9}(\.\d*)?", text):
        return float(text)
    try:
        # By the server's own clock: this host's may be an hour off.
        due, now = parsedate_to_datetime(text), parsedate_to_datetime(headers.get("date", ""))
        return max((due - now).total_seconds(), 0.0)
    except (TypeError, ValueError):
        pass
    for name in ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"):
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", headers.get(name, ""))
        if parts and headers.get(name.replace("reset", "remaining")) == "0":
            unit = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
            return sum(float(n) * unit[u] for n, u in parts)
    return None
