"""How servers and proxies stream an answer whose tokens' times are known.

A *manner* takes the tokens of an answer, each with the time at which it is made, and gives the
events that reach the client. They go through the real reader of events, so that an exchange is what
an endpoint of that manner would give; only the network is missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import polars as pl

from cr2fast_profiler.fit.observations import Observations, observations
from cr2fast_profiler.store import ROW
from cr2fast_profiler.workload.answer import Answer
from cr2fast_profiler.workload.exchange import RejectedRequest
from cr2fast_profiler.workload.grid import Grid

GRID = Grid.cross((64, 256, 768), (16, 64, 128))
TAU0_S, BETA_PRE_S, BETA_DEC_S = 0.040, 0.5e-3, 8e-3
TRUTH = {"tau0_s": TAU0_S, "beta_pre_s": BETA_PRE_S, "beta_dec_s": BETA_DEC_S}


@dataclass
class Reply:
    """What arrives: (s, text, field) pieces; when the end and the token counts are told."""

    pieces: list[tuple[float, str, str]]
    end_s: float
    reasoning: int | None = None
    usage_s: float = 0.0
    finish: str = "length"
    n_tokens: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


Manner = Callable[[Reply], Reply]


def plain(r: Reply) -> Reply:
    return r


def hidden(n: int, told: bool = False) -> Manner:
    """The first `n` tokens reach nobody."""

    def do(r: Reply) -> Reply:
        r.pieces = r.pieces[n:]
        r.reasoning = min(n, r.n_tokens) if told else None
        return r

    return do


def thinks(share: float, told: bool) -> Manner:
    """A share of the answer is thinking that reaches nobody."""

    def do(r: Reply) -> Reply:
        return hidden(math.ceil(share * r.n_tokens), told)(r)

    return do


def visible_thinking(r: Reply) -> Reply:
    half = len(r.pieces) // 2
    r.pieces = [
        (t, s, "reasoning_content" if i < half else k) for i, (t, s, k) in enumerate(r.pieces)
    ]
    r.reasoning = half
    return r


def stripped_tags(front: int, back: int) -> Manner:
    def do(r: Reply) -> Reply:
        r.pieces = r.pieces[front : len(r.pieces) - back]
        return r

    return do


def buffered(n_bytes: float, event_bytes: int = 180) -> Manner:
    """A proxy passes on what it has once that is `n_bytes`, and the rest at the end."""

    def do(r: Reply) -> Reply:
        out, waiting, size = [], [], 0
        for t, s, k in r.pieces:
            waiting.append((s, k))
            size += event_bytes + len(s)
            if size >= n_bytes:
                out += [(t, *w) for w in waiting]
                waiting, size = [], 0
        r.pieces = out + [(r.end_s, *w) for w in waiting]
        return r

    return do


def chunks(size: Callable[[np.random.Generator], int]) -> Manner:
    """Several tokens a chunk, which comes when its last token is made."""

    def do(r: Reply) -> Reply:
        out, at = [], 0
        while at < len(r.pieces):
            part = r.pieces[at : at + size(r.rng)]
            out.append((part[-1][0], "".join(s for _, s, _ in part), "content"))
            at += len(part)
        r.pieces = out
        return r

    return do


def flushed_every(seconds: float) -> Manner:
    """A server that writes what it has at a beat of its own."""

    def do(r: Reply) -> Reply:
        phase = r.rng.uniform(0, seconds)

        def beat(t: float) -> float:
            return math.ceil((t - phase) / seconds - 1e-9) * seconds + phase

        r.pieces = [(beat(t), s, k) for t, s, k in r.pieces]
        r.end_s = beat(r.end_s)
        return r

    return do


def flushed_from_arrival(seconds: float) -> Manner:
    """The same, its beat counted from the request: a cell always waits alike."""

    def do(r: Reply) -> Reply:
        r.pieces = [(math.ceil(t / seconds - 1e-9) * seconds, s, k) for t, s, k in r.pieces]
        r.end_s = math.ceil(r.end_s / seconds - 1e-9) * seconds
        return r

    return do


def late_first(seconds: float) -> Manner:
    """The first chunks wait, then come together."""

    def do(r: Reply) -> Reply:
        until = r.pieces[0][0] + seconds
        r.pieces = [(max(t, min(until, r.end_s)), s, k) for t, s, k in r.pieces]
        return r

    return do


def placeholder(r: Reply) -> Reply:
    """A space at once, before anything is computed."""
    r.pieces = [(0.005, " ", "content"), *r.pieces]
    return joined_last(r)


def joined_last(r: Reply) -> Reply:
    """The last two tokens in one chunk."""
    *rest, (_, a, _), (t, b, k) = r.pieces
    r.pieces = [*rest, (t, a + b, k)]
    return r


def late_usage(seconds: float) -> Manner:
    def do(r: Reply) -> Reply:
        r.usage_s = r.end_s + seconds
        return r

    return do


def late_end(seconds: float) -> Manner:
    def do(r: Reply) -> Reply:
        r.end_s += seconds
        return r

    return do


def end_token(r: Reply) -> Reply:
    """The last token has no text."""
    r.pieces = r.pieces[:-1]
    return r


def stops_early(share: float) -> Manner:
    """Thinks a while, then stops by itself wherever it likes."""

    def do(r: Reply) -> Reply:
        n = max(4, round(r.n_tokens * r.rng.uniform(share, 1)))
        r.pieces, r.end_s, r.n_tokens, r.finish = r.pieces[:n], r.pieces[n - 1][0], n, "stop"
        return thinks(0.4, False)(r)

    return do


def also(*manners: Manner) -> Manner:
    def do(r: Reply) -> Reply:
        for m in manners:
            r = m(r)
        return r

    return do


MANNERS: dict[str, Manner] = {
    "plain": plain,
    "end token without text": end_token,
    "3 hidden tokens first": hidden(3),
    "12 hidden tokens first": hidden(12),
    "hidden reasoning, told": hidden(10, told=True),
    "hidden reasoning of all but the long answers, told": hidden(40, told=True),
    "hidden reasoning, half of the answer": thinks(0.5, told=False),
    "hidden reasoning, half, told": thinks(0.5, told=True),
    "reasoning in sight": visible_thinking,
    "stripped tags, 3 before and 3 after": stripped_tags(3, 3),
    "buffers the whole answer": buffered(math.inf),
    "buffers 1 KiB": buffered(1024),
    "buffers 2 KiB": buffered(2048),
    "buffers 8 KiB": buffered(8192),
    "4 tokens a chunk": chunks(lambda rng: 4),
    "16 tokens a chunk": chunks(lambda rng: 16),
    "1 to 5 tokens a chunk (speculation)": chunks(lambda rng: int(rng.integers(1, 6))),
    "1 or 8 tokens a chunk": chunks(lambda rng: int(rng.choice([1, 8]))),
    "flushes every 50 ms": flushed_every(0.05),
    "flushes 50 ms after arrival, and so on": flushed_from_arrival(0.05),
    "first chunk 100 ms late": late_first(0.1),
    "placeholder before the prefill": placeholder,
    "last two tokens together": joined_last,
    "usage 200 ms late": late_usage(0.2),
    "end told 200 ms late": late_end(0.2),
    "stops by itself after unseen thinking": stops_early(0.5),
    "speculation, 3 hidden, 1 KiB buffer": also(
        hidden(3), chunks(lambda rng: int(rng.integers(1, 6))), buffered(1024)
    ),
}


def reply(l_in: int, l_out: int, rng: np.random.Generator, noise: float = 0.0) -> Reply:
    """A model's answer as it makes it; `noise` is of its speed, a token apart and a request."""
    slower = math.exp(noise * rng.normal())
    gaps = BETA_DEC_S * slower * np.exp(0.3 * noise * rng.normal(size=l_out))
    gaps[0] += slower * (TAU0_S + BETA_PRE_S * l_in)
    times = np.cumsum(gaps)
    return Reply(
        [(float(t), f"{i}\n", "content") for i, t in enumerate(times, 1)],
        float(times[-1]),
        n_tokens=l_out,
        rng=rng,
    )


def events(r: Reply, l_in: int) -> list[tuple[float, dict]]:
    """(s, event) as they reach the client."""
    out = [(t, {"choices": [{"delta": {k: s}}]}) for t, s, k in r.pieces]
    out.append((r.end_s, {"choices": [{"delta": {}, "finish_reason": r.finish}]}))
    usage: dict = {"prompt_tokens": l_in, "completion_tokens": r.n_tokens}
    if r.reasoning is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": r.reasoning}
    out.append((max(r.usage_s, r.end_s), {"choices": [], "usage": usage}))
    return sorted(out, key=lambda e: e[0])


def rows(
    manner: Manner,
    seed: int = 0,
    rounds: int = 3,
    noise: float = 0.01,
    grid: Grid = GRID,
    slow: Callable[[np.random.Generator], float] = lambda rng: 1.0,
) -> pl.DataFrame:
    """A run's rows; `slow` gives by how much each request is slowed."""
    rng = np.random.default_rng(seed)
    kept, at = [], 0.0
    for number in range(rounds):
        for item in grid.round(number, seed):
            l_in, l_out = item.asked
            l_in += int(rng.integers(-3, 4))
            r = reply(l_in, l_out, rng, noise)
            factor = slow(rng)
            r.pieces = [(t * factor, s, k) for t, s, k in r.pieces]
            r.end_s *= factor
            r = manner(r)
            answer = Answer()
            row: dict = {"session": 0} | asdict(item)
            for t, event in events(r, l_in):
                answer.add(json.dumps(event), round((at + t) * 1e9))
            try:
                said = asdict(answer.exchange(round(at * 1e9), l_out))
                del said["text"]
            except RejectedRequest as refusal:
                said = {"rejected": refusal.reason.value, "detail": refusal.detail}
            kept.append(row | said)
            at += r.end_s + 0.01
    return pl.DataFrame([{k: row.get(k) for k in ROW} for row in kept], schema=ROW)


def observed(manner: Manner, **options) -> Observations:
    return observations(rows(manner, **options))
