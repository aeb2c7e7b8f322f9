"""How streams look, how they end, and what a broken one says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fakes.known import NEVER, Reply, event, said_json
from fakes.servers import PROMPT, Change, Server, is_post, streamed

from cr2fast_profiler.workload.exchange import Rejected, RejectedRequest


def pieces(reply: Reply, change: Callable[[bytes], bytes]) -> Reply:
    return Reply(reply.status, reply.headers, [(t, change(p) if p else p) for t, p in reply.pieces])


def only_streams(change: Callable[[Reply], Reply]) -> Change:
    return lambda request, reply: change(reply) if streamed(request) else reply


FRAMINGS: dict[str, Callable[[Reply], Reply]] = {
    "CRLF": lambda r: pieces(r, lambda p: p.replace(b"\n", b"\r\n")),
    "CR": lambda r: pieces(r, lambda p: p.replace(b"\n", b"\r")),
    "comments between": lambda r: pieces(r, lambda p: b": keepalive\n\n" + p + b":\n"),
    "no space after the colon": lambda r: pieces(r, lambda p: p.replace(b"data: ", b"data:")),
    "many lines": lambda r: pieces(
        r, lambda p: p.replace(b', "', b',\ndata: "') if p.startswith(b"data: {") else p
    ),
    "a mark of byte order": lambda r: Reply(
        r.status, r.headers, [(r.pieces[0][0], b"\xef\xbb\xbf" + r.pieces[0][1]), *r.pieces[1:]]
    ),
    "named events and pings": lambda r: pieces(
        r, lambda p: b'event: ping\ndata: {"type": "ping"}\n\nevent: message\nid: 1\n' + p
    ),
    "a charset": lambda r: Reply(
        r.status, {"Content-Type": "Text/Event-Stream; charset=utf-8"}, r.pieces
    ),
    "another type": lambda r: Reply(r.status, {"Content-Type": "text/plain"}, r.pieces),
    "no type": lambda r: Reply(r.status, {}, r.pieces),
    "no done": lambda r: Reply(r.status, r.headers, r.pieces[:-1]),
    "a first event without choices": lambda r: Reply(
        r.status,
        r.headers,
        [(0.0, event({"choices": [], "prompt_filter_results": []})), *r.pieces],
    ),
    "usage in a field of its own": lambda r: pieces(
        r,
        lambda p: (
            p.replace(b'"usage": {"prompt', b'"x_groq": {"usage": {"prompt').replace(
                b"}}}\n", b"}}}}\n"
            )
            if b"cached_tokens" in p
            else p
        ),
    ),
    "null choices and null usage": lambda r: Reply(
        r.status, r.headers, [(0.0, event({"choices": None, "usage": None})), *r.pieces]
    ),
    "cut within characters": lambda r: Reply(
        r.status,
        r.headers,
        [(t, bytes([b])) for t, p in r.pieces for b in p or b""],
    ),
    "content in parts": lambda r: pieces(
        r, lambda p: _parts(p) if b'"content"' in p and b"role" not in p else p
    ),
}


def _parts(piece: bytes) -> bytes:
    value = json.loads(piece[6:])
    delta = value["choices"][0]["delta"]
    delta["content"] = [{"type": "text", "text": delta["content"]}]
    return event(value)


@pytest.mark.parametrize("name", FRAMINGS)
def test_streams_of_any_framing(name: str) -> None:
    x = Server(after=only_streams(FRAMINGS[name])).ask()
    assert (x.n_output_tokens, x.n_chunks, x.text) == (4, 4, "1\n2\n3\n4\n")
    if name == "CR":  # a CR is the end of a line only once no LF follows it
        return
    assert (x.first_ns - x.start_ns) * 1e-9 == pytest.approx(0.004 + 9e-4 + 2e-3)
    assert (x.last_ns - x.first_ns) * 1e-9 == pytest.approx(6e-3)


STAYING = {
    "after done": (lambda p: p, 0.5),
    "after the usage": (lambda p: p[:-1], 0.5),
    "after the finish reason, usage in it": (lambda p: [*p[:-3], (p[-3][0], _both(p))], 0.5),
    "after the finish reason, no usage": (lambda p: p[:-2], 10.0),
}


def _both(p: Any) -> bytes:
    finish, usage = json.loads(p[-3][1][6:]), json.loads(p[-2][1][6:])
    return event(finish | {"usage": usage["usage"]})


@pytest.mark.parametrize("keepalive", [False, True])
@pytest.mark.parametrize("name", STAYING)
def test_a_stream_that_stays_open_is_left_at_its_end(name: str, keepalive: bool) -> None:
    change, most_s = STAYING[name]
    ever = [(1.0 * i, b": ping\n\n") for i in range(1, 400)] if keepalive else []

    def stay(reply: Reply) -> Reply:
        return Reply(reply.status, reply.headers, [*change(reply.pieces), *ever, (NEVER, b"")])

    server = Server(after=only_streams(stay))
    with server.endpoint() as endpoint:
        start_ns = server.clock()
        x = endpoint.generate(PROMPT, 4)
        assert x.n_output_tokens == 4
        assert (x.last_ns - x.start_ns) * 1e-9 == pytest.approx(0.004 + 9e-4 + 8e-3)
        assert (server.clock() - start_ns) * 1e-9 < most_s
        start_ns = server.clock()
        endpoint.generate(PROMPT, 4)
        assert (server.clock() - start_ns) * 1e-9 < 1.5, "what was waited for once is known"


OOM = "CUDA out of memory"
BROKEN: dict[str, tuple[list[bytes], Rejected, str]] = {
    "an object": ([event({"error": {"message": OOM, "code": 500}})], Rejected.ERROR_IN_200, OOM),
    "a text": ([event({"error": OOM})], Rejected.ERROR_IN_200, OOM),
    "an event of that name": (
        [b'event: error\ndata: {"message": "CUDA out of memory"}\n\n'],
        Rejected.ERROR_IN_200,
        OOM,
    ),
    "an object of that kind": (
        [event({"object": "error", "message": OOM, "code": 40303})],
        Rejected.ERROR_IN_200,
        OOM,
    ),
    "a detail": ([event({"detail": OOM})], Rejected.ERROR_IN_200, OOM),
    "a field of its own": (
        [b'error: {"code": 500, "message": "CUDA out of memory"}\n\n'],
        Rejected.ERROR_IN_200,
        OOM,
    ),
    "bare JSON": ([b'{"error": {"message": "CUDA out of memory"}}'], Rejected.ERROR_IN_200, OOM),
    "a choice": (
        [event({"choices": [{"finish_reason": "error", "error": {"message": OOM}}]})],
        Rejected.ERROR_IN_200,
        OOM,
    ),
    "a traceback": ([b"Traceback: CUDA out of memory error\n"], Rejected.ERROR_IN_200, OOM),
    "TGI's": (
        [event({"error": "Model is overloaded", "error_type": "overloaded"})],
        Rejected.ERROR_IN_200,
        "Model is overloaded",
    ),
    "no JSON": ([event(b"{nonsense")], Rejected.MALFORMED, "not JSON: '{nonsense'"),
    "no object": ([event(b"[1]")], Rejected.MALFORMED, "expected an object"),
    "nothing": ([], Rejected.CUT_OFF, "ended after 0 chunks"),
    "a choice of none": ([event({"choices": ["x"]})], Rejected.MALFORMED, "no object"),
    "long words": ([event({"error": "x" * 100_000})], Rejected.ERROR_IN_200, r"x{200}\.\.\.$"),
    "control characters": (
        [event({"error": "a\x1b[31mb\nc"})],
        Rejected.ERROR_IN_200,
        "a\ufffd\\[31mb c",
    ),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", BROKEN)
def test_what_a_broken_stream_says_is_kept(name: str, late: bool) -> None:
    said, reason, words = BROKEN[name]
    if late and name == "nothing":
        words = "ended after 2 chunks"

    def broken(reply: Reply) -> Reply:
        kept = reply.pieces[:2] if late else []
        return Reply(reply.status, reply.headers, [*kept, *((0.0, p) for p in said)])

    with pytest.raises(RejectedRequest, match=words) as caught:
        Server(after=only_streams(broken)).ask()
    assert caught.value.reason is reason
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize(
    ("reply", "reason", "words"),
    [
        (
            said_json(200, {"choices": [{"message": {"content": "1"}, "finish_reason": "stop"}]}),
            Rejected.MALFORMED,
            "came in one piece, not as a stream",
        ),
        (
            Reply(200, {"Content-Type": "text/html"}, [(0.0, b"<title>Log in</title>")]),
            Rejected.MALFORMED,
            "expected text/event-stream, got text/html: a web page, 'Log in'",
        ),
        (
            Reply(200, {"Content-Type": "application/json"}, [(0.0, b"{")]),
            Rejected.MALFORMED,
            "got application/json: {",
        ),
        (
            Reply(
                200,
                {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"},
                [(0, b"no gzip at all")],
            ),
            Rejected.MALFORMED,
            "not compressed as its head says",
        ),
        (said_json(502, "<html><title>502 Bad Gateway</title>"), Rejected.HTTP_ERROR, "502"),
    ],
)
def test_answers_that_are_no_streams(reply: Reply, reason: Rejected, words: str) -> None:
    server = Server(before=lambda r: reply if is_post(r) else None)
    with pytest.raises(RejectedRequest, match=words) as caught:
        server.ask()
    assert caught.value.reason is reason
