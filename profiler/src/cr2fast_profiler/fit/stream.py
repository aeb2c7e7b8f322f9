"""Whether text comes as its tokens are made, or is held back on the way.

In: :class:`Observations`, and the two estimates of its coefficients. Out: :class:`Stream`: sound or
not, by how much, and the cause in words. Four signs, each against its own noise:

- the TTFT grows with L_out (text held back until the answer's end, or hidden thinking);
- the decode time says that the first text came with a later token than its chunk holds;
- the phases give another tau0, β_pre or β_dec than the total time, which no streaming moves;
- chunks do not match tokens: tokens that `usage` counts and nobody streams, chunks of no even size,
  chunks that arrive together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cr2fast_profiler.errors import FitError
from cr2fast_profiler.fit.estimates import COEFFICIENTS, Estimate, Forms, phi_columns
from cr2fast_profiler.fit.observations import Observations, tokens_a_chunk
from cr2fast_profiler.fit.robust import half_width, solve

SURE = 1.7
"""Times half of the 95 % interval: hardly any sound run differs by as much."""
NEAR = 1.5
"""Tokens held back that blur the end of the prefill too little to matter."""
TOGETHER = 1.6
"""Chunks an arrival, above which something collects chunks."""
UNEVEN = 1.2
"""Tokens a chunk, from which uneven chunks explain what the decode time says of the first."""
LEAST_ROWS = 6
LATE_WORD = 6.0
"""Tokens' times after which the word of an answer's end is late, not hidden end tokens."""
LEAST, LEAST_EARLY = 0.5, 1.0
"""Tokens held back, or early, that are worth words."""


@dataclass(frozen=True)
class Stream:
    """How the text of the answers came.

    Attributes
    ----------
    sound : bool
        Text comes as its tokens are made: TTFT and decode time can be trusted.
    held_tokens : float or None
        Tokens made before the first text, beyond those it holds; None where nothing tells.
    growth : float
        By how much the TTFT grows with an output token, in tokens' times.
    hidden_tokens : float
        Tokens that ``usage`` counts beyond the chunks, where a chunk is one token.
    burst : float
        Chunks that arrive together, on average.
    beat_s : float
        The beat at which something on the way writes, s; 0 where there is none.
    causes : tuple of str
        What is wrong, in words; empty where nothing is, or where no sign is clear.
    """

    sound: bool
    held_tokens: float | None
    growth: float
    hidden_tokens: float
    burst: float
    beat_s: float
    causes: tuple[str, ...]

    @property
    def shows_prefill(self) -> bool:
        """Whether the first text comes about when the prefill ends, even if chunks are uneven."""
        near = self.held_tokens is not None and abs(self.held_tokens) < NEAR
        return self.sound or (near and abs(self.growth) < 0.02)


def examine(o: Observations, forms: Forms, total: Estimate, phases: Estimate | None) -> Stream:
    """Look for held-back text.

    Parameters
    ----------
    o : Observations
        Requests.
    forms : (bool, bool)
        Whether Φ_pre and Φ_dec are quadratic.
    total, phases : Estimate
        Of the same requests and forms; no phases where every answer came in one chunk.
    """
    beta = max(total.values["beta_dec_s"], 1e-12)
    growth, growth_width = _growth(o, forms)
    held, held_width = _held(o, forms, beta)
    size = tokens_a_chunk(o.l_out, o.n_chunks)
    hidden = float(np.median(o.l_out - o.n_chunks)) if abs(size - 1) < 0.05 else 0.0
    some = o.n_chunks > 0
    burst = float(np.median(o.n_chunks[some] / o.n_arrivals[some])) if some.any() else 1.0
    beat_s = _beat(o) if burst > TOGETHER else 0.0
    off = {} if phases is None else {k: total.disagreement(phases, k) for k in COEFFICIENTS}
    differ = [k for k, (d, width) in off.items() if abs(d) > SURE * width]
    grows = abs(growth) > SURE * growth_width
    waits = held is None or abs(held) > SURE * held_width
    even = math.isfinite(o.chunk_tokens)
    sound = phases is not None and even and burst <= TOGETHER and not (grows or waits or differ)
    causes = _growing(growth / beta) if grows else []
    if not causes and waits and held is not None:
        causes = _waiting(held, hidden, even or size < UNEVEN)
    if burst > TOGETHER and not (grows and growth > 0.8 * beta):
        causes.append(
            f"chunks arrive about {burst:.0f} at a time: "
            + (
                f"something writes at a beat of {beat_s * 1e3:.3g} ms, and no time is known better"
                if beat_s
                else "a buffer on the way collects them"
            )
        )
    if not even and size >= UNEVEN and not causes:
        causes.append(f"a chunk is about {size:.1f} tokens, not evenly (speculative decoding?)")
    thought = o.reasoning_tokens[np.isfinite(o.reasoning_tokens)]
    if not sound and thought.any():
        causes.append(f"the server counts {thought.mean():.0f} reasoning tokens per answer")
    if not sound and not causes and differ and phases is not None:
        causes = [_differing(differ, total, phases)]
    tail = float(np.median(o.tail_s))
    if tail > LATE_WORD * beta:
        causes.append(
            f"an answer's end is told {tail * 1e3:.3g} ms after its last text; times run to the "
            "last text"
        )
    return Stream(sound, held, growth / beta, hidden, burst, beat_s, tuple(causes))


def _growth(o: Observations, forms: Forms) -> tuple[float, float]:
    """Growth of the TTFT with L_out, s a token, and half of its 95 % interval."""
    x = np.concatenate(
        [np.ones((len(o), 1)), phi_columns(0.0, o.l_in, forms[0]), o.l_out[:, None]], 1
    )
    try:
        r = solve(x, o.ttft_s, o.cell, "TTFT")
    except FitError:
        return 0.0, math.inf
    return float(r.coefficients[-1]), half_width(r.influence[:, -1], r.misfit[:, -1], r.degrees)


def _held(o: Observations, forms: Forms, beta: float) -> tuple[float | None, float]:
    """Tokens made before the first text beyond those in it, and half of the 95 % interval."""
    many = o.l_out > o.first_tokens
    span = phi_columns(o.first_tokens[many], o.l_out[many], forms[1])
    x = np.concatenate([np.ones((len(span), 1)), span], 1)
    try:
        r = solve(x, o.decode_s[many], o.cell[many], "decode")
    except FitError:
        return None, 0.0
    width = half_width(r.influence[:, 0], r.misfit[:, 0], r.degrees)
    return -float(r.coefficients[0]) / beta, width / beta


def _beat(o: Observations) -> float:
    """Time between arrivals, s, where it is the same in every answer; 0 elsewhere."""
    several = o.n_arrivals > 1
    if several.sum() < LEAST_ROWS:
        return 0.0
    gaps = o.decode_s[several] / (o.n_arrivals[several] - 1)
    middle = float(np.median(gaps))
    return middle if float(np.median(np.abs(gaps - middle))) < 0.02 * middle else 0.0


def _growing(growth: float) -> list[str]:
    if growth > 0.8:
        return [
            "the answer comes all at once at its end: the server or a proxy holds it back whole"
        ]
    if growth > 0.02:
        return [
            f"TTFT grows with L_out, by {growth:.2g} of a token's time per token: text is held "
            "back, or the model thinks unseen before it answers"
        ]
    return []


def _waiting(held: float, hidden: float, even: bool) -> list[str]:
    if held < -LEAST_EARLY and even:
        return [
            f"the first text comes {-held:.1f} tokens' time before its tokens can be made: it is a "
            "placeholder"
        ]
    if held <= LEAST or not even:
        return []
    if hidden >= 1 and abs(hidden - held) <= 0.5 + 0.2 * held:
        return [
            f"about {hidden:.0f} tokens that usage counts come before the first text and are never "
            "streamed: hidden reasoning or stripped tags"
        ]
    return [f"about {held:.1f} tokens made before the first text are held back until it comes"]


def _differing(names: list[str], total: Estimate, phases: Estimate) -> str:
    shown = ", ".join(f"{k} {phases.values[k]:.4g} instead of {total.values[k]:.4g}" for k in names)
    return f"TTFT and decode time, each by itself, give {shown}"
