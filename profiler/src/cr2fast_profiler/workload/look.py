"""A first look at how an endpoint streams, from a short and a longer answer.

In: two exchanges of the same prompt length. Out: what a profile of it will have to work around, in
words. Two requests show what is gross; a run measures it (`fit/stream.py`).
"""

from __future__ import annotations

from cr2fast_profiler.workload.exchange import Exchange, RejectedRequest, Target
from cr2fast_profiler.workload.probe import TOO_FEW

SHORT, LONG = 8, 40
"""Tokens of the two answers."""


def first_look(short: Exchange, long: Exchange) -> list[str]:
    """What holds text back, as far as two answers tell; empty where nothing shows.

    Parameters
    ----------
    short, long : Exchange
        Answers of about SHORT and LONG tokens.
    """
    found = []
    grown_s = (long.last_ns - long.start_ns) - (short.last_ns - short.start_ns)
    waited_s = (long.first_ns - long.start_ns) - (short.first_ns - short.start_ns)
    more_chunks = long.n_chunks - short.n_chunks
    more_tokens = long.n_output_tokens - short.n_output_tokens
    size = more_tokens / more_chunks if more_chunks > 0 else 0.0
    if grown_s > 0 and waited_s > 0.5 * grown_s:
        found.append(
            "the first text of a longer answer comes later: text is held back, or the model thinks "
            "unseen before it answers"
        )
    elif 0.9 < size < 1.1 and long.n_output_tokens - long.n_chunks >= 2:
        found.append(
            f"usage counts {long.n_output_tokens - long.n_chunks} tokens that are never streamed: "
            "hidden reasoning or stripped tags"
        )
    elif size > 1.2:
        found.append(f"a chunk is about {size:.1f} tokens")
    if long.n_arrivals and long.n_chunks > 1.6 * long.n_arrivals:
        found.append(
            f"{long.n_chunks} chunks arrive in {long.n_arrivals} portions: a buffer on the way "
            "collects them"
        )
    if long.reasoning_tokens:
        found.append(f"the server counts {long.reasoning_tokens} reasoning tokens")
    if long.n_output_tokens < LONG:
        found.append(
            f"asked for {LONG} tokens it stops after {long.n_output_tokens} (finish_reason "
            f"{long.finish_reason!r:.40}): see --extra '{{\"ignore_eos\": true}}'"
        )
    return found


def two_answers(target: Target, prompt: str) -> tuple[Exchange, Exchange]:
    """A short answer and a longer one; of a model that thinks out of sight, both longer."""
    try:
        return target.generate(prompt, SHORT), target.generate(prompt, LONG)
    except RejectedRequest as refusal:
        if refusal.reason not in TOO_FEW:
            raise
    return target.generate(prompt, 4 * LONG), target.generate(prompt, 8 * LONG)
