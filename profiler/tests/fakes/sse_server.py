"""An OpenAI-compatible streaming server whose coefficients are known, and whose manners can be bad.

Each token is due at a deadline counted from the request's arrival, so sleeps that oversleep do not
add up. Words are tokens.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEMPLATE = 6


@dataclass
class Manners:
    """What the server does; every `every` requests it does the bad thing."""

    tau0_s: float = 0.004
    beta_pre_s: float = 1e-4
    beta_dec_s: float = 2e-3
    kappa_pre: float = 0.0
    model: str = "known"
    role_chunk: bool = False
    chunk_tokens: int = 1
    reasoning: bool = False
    stream_usage: bool = True
    usage: bool = True
    raw_usage: str = ""
    context: int = 1 << 30
    key: str | None = None
    bad: str = ""
    every: int = 0
    slowdown_a_request: float = 0.0
    served: int = 0
    busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_bad(self) -> str:
        with self.lock:
            self.served += 1
            return self.bad if self.every and self.served % self.every == 0 else ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    manners: Manners

    def log_message(self, *args: object) -> None:
        pass

    def _json(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refused(self) -> bool:
        key = self.manners.key
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self._json(401, {"error": {"message": "no key"}})
            return True
        return False

    def do_GET(self) -> None:
        if not self._refused():
            self._json(200, {"data": [{"id": self.manners.model}]})

    def _event(self, value: object) -> None:
        data = b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode())
        data += b"\n\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def do_POST(self) -> None:
        self.manners.busy += 1
        try:
            self._answer(time.perf_counter())
        finally:
            self.manners.busy -= 1

    def _answer(self, arrived: float) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return None
        m, bad = self.manners, self.manners.is_bad()
        prompt = asked["messages"][0]["content"] if "messages" in asked else asked["prompt"]
        n_in = len(prompt.split()) + TEMPLATE
        n_out = min(asked["max_tokens"], m.context)
        if bad == "ignored_max_tokens":
            n_out += 5
        cached = n_in - 1 if bad == "cached" else 0
        usage = {
            "prompt_tokens": n_in,
            "completion_tokens": n_out,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        tokens = [f"{i}\n" for i in range(1, n_out + 1)]
        if not asked.get("stream"):
            said = "".join(tokens)
            choice = {"message": {"content": said}} if "messages" in asked else {"text": said}
            reply: dict[str, Any] = {"choices": [choice | {"finish_reason": "length"}]}
            self._json(200, reply | ({"usage": usage} if m.usage else {}))
            return None
        if bad == "http_500":
            self._json(500, {"error": {"message": "boom"}})
            return None
        if bad == "json_error_in_200":
            self._json(200, {"error": {"message": "out of memory"}})
            return None
        slower = 1 + m.slowdown_a_request * m.served
        work = n_in - cached
        first = m.tau0_s + m.beta_pre_s * (work + m.kappa_pre * work**2) + m.beta_dec_s
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if m.role_chunk:
            self._event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        if bad == "error_in_200":
            self._event({"error": {"message": "out of memory"}})
            return self._end()
        while bad == "comments":
            self.wfile.write(b"7\r\n: ping\n\r\n")
            time.sleep(0.05)
        if bad == "not_json":
            self._event(b"{nonsense")
            return self._end()
        if bad == "empty":
            tokens = []
        for start in range(0, len(tokens), m.chunk_tokens):
            piece = tokens[start : start + m.chunk_tokens]
            due = first + m.beta_dec_s * (start + len(piece) - 1)
            time.sleep(max(0.0, arrived + slower * due - time.perf_counter()))
            if bad == "cut_off" and start >= len(tokens) // 2:
                self.close_connection = True
                return None
            name = "reasoning_content" if m.reasoning and start == 0 else "content"
            said = "".join(piece)
            body = {"delta": {name: said}} if "messages" in asked else {"text": said}
            self._event({"choices": [body | {"finish_reason": None}]})
        self._event({"choices": [{"delta": {}, "text": "", "finish_reason": "length"}]})
        if m.raw_usage:
            self._event(b'{"choices": [], "usage": ' + m.raw_usage.encode() + b"}")
        elif m.usage and m.stream_usage:
            self._event({"choices": [], "usage": usage})
        self._event(b"[DONE]")
        return self._end()

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


@contextmanager
def serve(**manners: Any):
    """Yield (url, manners) of a running server."""
    said = Manners(**manners)
    handler = type("KnownHandler", (Handler,), {"manners": said})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", said
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for connection in server.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
