"""The endpoint over this machine's sockets: what only they can show. No time is asserted."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.known import Manners, respond
from fakes.servers import PROMPT

from cr2fast_profiler.errors import EndpointError
from cr2fast_profiler.workload.connection import tls_context
from cr2fast_profiler.workload.endpoint import Endpoint
from cr2fast_profiler.workload.exchange import Rejected, RejectedRequest

TLS = Path(__file__).parents[1] / "fakes" / "tls"


def read_request(connection) -> tuple[str, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := connection.recv(65_536)):
            return "", {}, b""
        data += part
        if data[:1] not in (b"G", b"P"):  # what TLS begins with, say
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return "", {}, b""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65_536)
    return lines[0].split(" ")[0], headers, body


def plain(reply, body: bytes, *more: str) -> bytes:
    lines = ["HTTP/1.0 200 OK", f"Content-Type: {reply.headers['Content-Type']}", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def listening(answer, context: ssl.SSLContext | None = None):
    """A server of one request for each connection, as `answer` writes it; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    manners, accepted = Manners(), []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(connection)
            try:
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                method, headers, body = read_request(connection)
                if method:
                    reply = respond(manners, method, "", headers, body)
                    whole = b"".join(p or b"" for _, p in reply.pieces)
                    answer(connection, method, reply, whole)
                connection.close()
            except OSError:
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], accepted
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_http_1_0_without_a_length() -> None:
    def answer(connection, method, reply, whole):
        connection.sendall(plain(reply, whole))

    with listening(answer) as (port, _), Endpoint(f"http://127.0.0.1:{port}") as endpoint:
        assert endpoint.generate(PROMPT, 4).n_output_tokens == 4


def test_a_body_that_is_compressed_though_nobody_asked() -> None:
    def answer(connection, method, reply, whole):
        connection.sendall(plain(reply, gzip.compress(whole), "Content-Encoding: gzip"))

    with listening(answer) as (port, _), Endpoint(f"http://127.0.0.1:{port}") as endpoint:
        assert endpoint.generate(PROMPT, 4).n_output_tokens == 4


def test_a_stream_that_nobody_ends_is_hung_up_on() -> None:
    """The server waits for the client to hang up: it would wait for ever."""
    hung_up = threading.Event()

    def answer(connection, method, reply, whole):
        connection.sendall(plain(reply, whole))
        if method == "POST":
            assert connection.recv(1) == b""
            hung_up.set()

    with listening(answer) as (port, _), Endpoint(f"http://127.0.0.1:{port}") as endpoint:
        assert endpoint.generate(PROMPT, 4).n_output_tokens == 4
        hung_up.wait()


def test_one_connection_carries_all_requests() -> None:
    from fakes.sse_server import _Server, serve

    opened: list[object] = []
    accept = _Server.process_request

    def counted(self, request, client_address):
        opened.append(request)
        accept(self, request, client_address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Server, "process_request", counted)
        with serve() as (url, _), Endpoint(url) as endpoint:
            for _ in range(3):
                endpoint.generate(PROMPT, 4)
    assert len(opened) == 1, "a new connection would be measured as the model's"


@pytest.fixture(scope="module")
def secure() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "localhost.pem", TLS / "localhost.key")
    return context


def send(connection, method, reply, whole) -> None:
    connection.sendall(plain(reply, whole))


def test_a_certificate_of_one_s_own_authority(secure, monkeypatch) -> None:
    with listening(send, secure) as (port, _):
        url = f"https://localhost:{port}"
        with pytest.raises(
            EndpointError, match="certificate cannot be trusted.*--ca-file FILE, or"
        ):
            Endpoint(url)
        with Endpoint(url, ca_file=str(TLS / "localhost.pem")) as endpoint:
            assert endpoint.generate(PROMPT, 4).n_output_tokens == 4
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "localhost.pem"))
        with Endpoint(url) as endpoint:
            assert endpoint.generate(PROMPT, 4).n_output_tokens == 4


def test_certificates_that_cannot_be_read(tmp_path, monkeypatch) -> None:
    (tmp_path / "none.pem").write_text("none")
    for path in (tmp_path / "none.pem", tmp_path / "absent.pem"):
        with pytest.raises(EndpointError, match=r"--ca-file .*expected certificates in PEM"):
            tls_context(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    with pytest.raises(EndpointError, match="SSL_CERT_FILE"):
        tls_context(None)


def test_http_and_https_mixed_up(secure) -> None:
    with (
        listening(send) as (port, _),
        pytest.raises(EndpointError, match="plain HTTP. Then give http://"),
    ):
        Endpoint(f"https://127.0.0.1:{port}")
    with (
        listening(send, secure) as (port, _),
        pytest.raises(EndpointError, match="is the server|broke|https"),
    ):
        Endpoint(f"http://127.0.0.1:{port}")


def test_hosts_that_are_not_there(monkeypatch) -> None:
    with pytest.raises(EndpointError, match="no connection .*is the server running"):
        Endpoint("http://127.0.0.1:9")

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(EndpointError, match="the name of the host is not known"):
        Endpoint("http://no-such-host.invalid")


def test_a_server_that_speaks_no_http() -> None:
    def answer(connection, method, reply, whole):
        connection.sendall(b"SSH-2.0-OpenSSH_9\r\n")

    with listening(answer) as (port, _), pytest.raises(EndpointError, match="the connection broke"):
        Endpoint(f"http://127.0.0.1:{port}")


def test_a_connection_that_breaks_within_the_answer() -> None:
    def answer(connection, method, reply, whole):
        if method == "GET":
            return send(connection, method, reply, whole)
        body = whole[: len(whole) // 2]
        return connection.sendall(plain(reply, body, f"Content-Length: {len(whole)}"))

    with listening(answer) as (port, _), Endpoint(f"http://127.0.0.1:{port}") as endpoint:
        with pytest.raises(RejectedRequest, match="the connection broke") as caught:
            endpoint.generate(PROMPT, 4)
        assert caught.value.reason is Rejected.CUT_OFF
        assert json.dumps(endpoint.describe())
