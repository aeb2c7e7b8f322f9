"""An OpenAI-compatible server that answers with its own name, where no model is installed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAUSE_S = 0.02
"""Between the words of a stream."""


def _handler(name: str) -> type[BaseHTTPRequestHandler]:
    words = ["I", "am", "the", "stub", "of", f"{name}."]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):  # a gateway that was killed
                super().handle()

        def do_GET(self) -> None:
            self._whole({"object": "list", "data": [{"id": name, "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            chat = self.path.endswith("/chat/completions")
            common = {"id": "stub", "created": int(time.time()), "model": name}
            if body.get("stream"):
                self._stream(common, chat)
                return
            text = " ".join(words)
            answer: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
            answer |= (
                {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            )
            usage = {"prompt_tokens": 8, "completion_tokens": len(words)}
            usage["total_tokens"] = sum(usage.values())
            kind = "chat.completion" if chat else "text_completion"
            self._whole({**common, "object": kind, "choices": [answer], "usage": usage})

        def _whole(self, message: dict[str, Any]) -> None:
            data = json.dumps(message).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _stream(self, common: dict[str, Any], chat: bool) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for k, word in enumerate([*words, ""]):
                last = k == len(words)
                part: dict[str, Any] = {"index": 0, "finish_reason": "stop" if last else None}
                said = "" if last else word + " "
                part |= {"delta": {"content": said} if said else {}} if chat else {"text": said}
                kind = "chat.completion.chunk" if chat else "text_completion"
                self._chunk(json.dumps({**common, "object": kind, "choices": [part]}))
                time.sleep(PAUSE_S)
            self._chunk("[DONE]")
            self.wfile.write(b"0\r\n\r\n")

        def _chunk(self, data: str) -> None:
            event = f"data: {data}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def serve(name: str) -> Iterator[str]:
    """Start one; yields its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(name))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
