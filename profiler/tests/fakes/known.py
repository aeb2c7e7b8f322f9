"""A model server whose coefficients are known, and whose manners can be bad: what it says, and when.

It knows neither sockets nor clocks. `Answering.answer` gives the events of one request, each due so
many seconds after the request arrived; `virtual.py` carries them on a virtual clock, `sse_server.py`
over real sockets. Words are tokens.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TEMPLATE = 6
NEVER = 1e9
"""Seconds until something that does not come."""


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
    varied_chunks: int = 0
    """Up to so many tokens a chunk, drawn anew: speculative decoding."""
    hidden_tokens: int = 0
    """Tokens counted, computed and never streamed, before the first visible one."""
    tells_hidden: bool = False
    proxy_bytes: int = 0
    """A proxy in between holds what it has until it is so much."""
    noise: float = 0.0
    """Spread of a request's time; its tokens share it."""
    burst: float = 1.0
    """Share `burst_share` of requests takes so many times longer."""
    burst_share: float = 0.0
    stall_s: float = 0.0
    """The request number `stall_at` stands still for so long."""
    stall_at: int = -1
    reasoning: bool = False
    stream_usage: bool = True
    usage: bool = True
    raw_usage: str = ""
    context: int = 1 << 30
    """Tokens of the longest answer."""
    prompt_context: int = 1 << 30
    """Tokens that it keeps of a prompt."""
    key: str | None = None
    bad: str = ""
    every: int = 0
    slowdown_a_request: float = 0.0
    seed: int = 0
    served: int = 0
    busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.dice = np.random.default_rng(self.seed)

    def is_bad(self) -> str:
        with self.lock:
            self.served += 1
            return self.bad if self.every and self.served % self.every == 0 else ""


@dataclass
class Reply:
    """A status, headers, and pieces of body as (due s after arrival, bytes); None cuts it off."""

    status: int
    headers: dict[str, str]
    pieces: list[tuple[float, bytes | None]]


def said_json(status: int, value: object, due_s: float = 0.0, **headers: str) -> Reply:
    body = json.dumps(value).encode()
    length = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return Reply(status, length | headers, [(due_s, body)])


def event(value: object) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def respond(m: Manners, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
    """What the server does with one request."""
    if m.key and headers.get("authorization") != f"Bearer {m.key}":
        return said_json(401, {"error": {"message": "no key"}})
    if method == "GET":
        return said_json(200, {"data": [{"id": m.model}]})
    return _held(m, _answer(m, json.loads(body)))


def _held(m: Manners, reply: Reply) -> Reply:
    """What a proxy lets through, once it has `proxy_bytes` or the end."""
    if not m.proxy_bytes or "event-stream" not in reply.headers["Content-Type"]:
        return reply
    pieces: list[tuple[float, bytes | None]] = []
    held = b""
    for due_s, piece in reply.pieces:
        held += piece or b""
        while len(held) >= m.proxy_bytes:
            pieces.append((due_s, held[: m.proxy_bytes]))
            held = held[m.proxy_bytes :]
    return Reply(reply.status, reply.headers, [*pieces, (reply.pieces[-1][0], held)])


def _chunks(m: Manners, n: int) -> Iterator[tuple[int, int]]:
    """(first token, tokens) of each chunk."""
    at = 0
    while at < n:
        size = int(m.dice.integers(1, m.varied_chunks + 1)) if m.varied_chunks else m.chunk_tokens
        yield at, min(size, n - at)
        at += size


def _answer(m: Manners, asked: dict[str, Any]) -> Reply:
    bad = m.is_bad()
    chat = "messages" in asked
    prompt = asked["messages"][0]["content"] if chat else asked["prompt"]
    n_in = min(len(prompt.split()) + TEMPLATE, m.prompt_context)
    n_out = min(asked["max_tokens"], m.context) + (5 if bad == "ignored_max_tokens" else 0)
    cached = n_in - 1 if bad == "cached" else 0
    usage: dict[str, Any] = {
        "prompt_tokens": n_in,
        "completion_tokens": n_out,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    if m.tells_hidden:
        usage["completion_tokens_details"] = {"reasoning_tokens": m.hidden_tokens}
    tokens = [f"{i}\n" for i in range(1, n_out + 1 - m.hidden_tokens)]
    work = n_in - cached
    first_s = m.tau0_s + m.beta_pre_s * (work + m.kappa_pre * work**2)
    scale = 1 + m.slowdown_a_request * m.served
    if m.noise:
        scale *= float(np.exp(m.dice.normal(0, m.noise) - m.noise**2 / 2))
    if m.burst_share and m.dice.random() < m.burst_share:
        scale *= m.burst
    stall_s = m.stall_s if m.served == m.stall_at else 0.0

    def due_s(n: int) -> float:
        """When the n-th token is there."""
        return scale * (first_s + m.beta_dec_s * (m.hidden_tokens + n)) + stall_s

    if not asked.get("stream"):
        said = "".join(tokens)
        choice = {"message": {"content": said}} if chat else {"text": said}
        whole: dict[str, Any] = {"choices": [choice | {"finish_reason": "length"}]}
        return said_json(200, whole | ({"usage": usage} if m.usage else {}), due_s(len(tokens)))
    if bad == "http_500":
        return said_json(500, {"error": {"message": "boom"}})
    if bad == "json_error_in_200":
        return said_json(200, {"error": {"message": "out of memory"}})
    pieces: list[tuple[float, bytes | None]] = []
    reply = Reply(200, {"Content-Type": "text/event-stream"}, pieces)
    if m.role_chunk:
        pieces.append((0.0, event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})))
    if bad == "error_in_200":
        pieces.append((0.0, event({"error": {"message": "out of memory"}})))
        return reply
    if bad == "comments":
        pieces += [(0.05 * i, b": ping\n\n") for i in range(100_000)]
        return reply
    if bad == "not_json":
        pieces.append((0.0, event(b"{nonsense")))
        return reply
    at_s = 0.0
    for at, size in _chunks(m, 0 if bad == "empty" else len(tokens)):
        at_s = due_s(at + size)
        if bad == "cut_off" and at >= len(tokens) // 2:
            pieces.append((at_s, None))
            return reply
        name = "reasoning_content" if m.reasoning and at == 0 else "content"
        said = "".join(tokens[at : at + size])
        body = {"delta": {name: said}} if chat else {"text": said}
        pieces.append((at_s, event({"choices": [body | {"finish_reason": None}]})))
    at_s = max(at_s, due_s(len(tokens)))
    pieces.append(
        (at_s, event({"choices": [{"delta": {}, "text": "", "finish_reason": "length"}]}))
    )
    if m.raw_usage:
        pieces.append((at_s, event(b'{"choices": [], "usage": ' + m.raw_usage.encode() + b"}")))
    elif m.usage and m.stream_usage:
        pieces.append((at_s, event({"choices": [], "usage": usage})))
    pieces.append((at_s, event(b"[DONE]")))
    return reply
