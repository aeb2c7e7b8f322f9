"""A loopback server that speaks as much of the OpenAI API as a client in a test needs.

In: what it shall do, by name. Out: a base URL, and the requests that came.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub:
    """A server that says `text`; `behaviour` may be changed between requests.

    Behaviours: "ok"; a status such as "500"; "garbage" and "error" under status 200; "cut" the
    connection before an answer; of streams "cut before" and "cut after" the first content, "empty",
    and "error" as the first event.
    """

    def __init__(self, text):
        self.text, self.behaviour, self.requests = text, "ok", []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.requests.append((self.path, dict(self.headers), body))
                stub._answer(self, body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # Clients that go away are part of the tests.
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, http, body):
        what = self.behaviour
        if what == "cut":
            http.close_connection = True
            http.connection.close()
        elif what.isdigit():
            self._whole(http, {"error": {"message": f"stub says {what}"}}, int(what))
        elif body.get("stream"):
            self._stream(http, body, what)
        elif what == "garbage":
            self._send(http, b"<html>busy</html>", 200, "text/html")
        elif what == "error":
            self._whole(http, {"error": {"message": "out of memory"}})
        else:
            self._whole(http, self._body(http.path, body))

    def _body(self, path, body):
        base = {"id": "stub", "created": 1, "model": body["model"], "extra_field": "kept"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        if path.endswith("/chat/completions"):
            message = {"role": "assistant", "content": self.text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return base | {"object": "chat.completion", "choices": [choice], "usage": usage}
        if path.endswith("/completions"):
            choice = {"index": 0, "text": self.text, "finish_reason": "stop", "logprobs": None}
            return base | {"object": "text_completion", "choices": [choice], "usage": usage}
        said = {"type": "output_text", "text": self.text, "annotations": []}
        message = {
            "type": "message", "id": "m", "role": "assistant", "status": "completed",
            "content": [said],
        }  # fmt: skip
        return base | {
            "object": "response", "created_at": 1, "status": "completed", "output": [message],
            "parallel_tool_calls": False, "tool_choice": "auto", "tools": [],
        }  # fmt: skip

    def _stream(self, http, body, what):
        http.send_response(200)
        http.send_header("Content-Type", "text/event-stream")
        http.send_header("Transfer-Encoding", "chunked")
        http.end_headers()
        base = {
            "id": "stub", "object": "chat.completion.chunk", "created": 1, "model": body["model"],
        }  # fmt: skip

        def event(value):
            data = value if isinstance(value, bytes) else b"data: " + json.dumps(value).encode()
            data += b"\n\n"
            http.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            http.wfile.flush()

        def delta(finish=None, **fields):
            event(base | {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]})

        if what == "error":
            event({"error": {"message": "out of memory"}})
        elif what != "empty":
            delta(role="assistant", content="")
            if what != "cut before":
                for word in self.text.split():
                    delta(content=word + " ")
                    if what == "cut after":
                        break
        if what.startswith("cut"):
            http.close_connection = True
            http.connection.close()
            return
        if what == "ok":
            delta(finish="stop")
        event(b"data: [DONE]")
        http.wfile.write(b"0\r\n\r\n")

    def _whole(self, http, value, status=200):
        self._send(http, json.dumps(value).encode(), status, "application/json")

    def _send(self, http, data, status, kind):
        http.send_response(status)
        http.send_header("Content-Type", kind)
        http.send_header("Content-Length", str(len(data)))
        http.end_headers()
        http.wfile.write(data)
