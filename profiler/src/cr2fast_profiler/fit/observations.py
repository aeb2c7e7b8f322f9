"""Rows as the fits see them.

In: a run's rows. Out: arrays over the answered grid requests, one entry a request, which is the
unit of every resampling: the tokens of one request share its noise, so they are not independent.

The first chunk may carry several tokens, and only usage counts tokens: k₁, the tokens of the first
chunk, is L_out / chunks rounded up where one number explains every row (chunks of four, say).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cr2fast_profiler.errors import FitError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Observations:
    """n answered requests.

    Attributes
    ----------
    l_in, l_out : ndarray of float64, (n,)
        Tokens, as usage counts them.
    ttft_s : ndarray of float64, (n,)
        Sent to first chunk with content, s.
    decode_s : ndarray of float64, (n,)
        First chunk to last chunk, s.
    first_tokens : ndarray of float64, (n,)
        k₁.
    cell : ndarray of int64, (n,)
        Which cell of the grid each belongs to, from 0 on.
    start_s : ndarray of float64, (n,)
        When it was sent, s.
    chunk_tokens : float
        Tokens of every chunk where one number explains the rows; NaN where none does.
    n_chunks, n_arrivals : ndarray of float64, (n,)
        Chunks with content, and times at which some arrived.
    reasoning_tokens : ndarray of float64, (n,)
        As the server counts them; NaN where it does not.
    tail_s : ndarray of float64, (n,)
        From the last chunk to the server's word that it is finished, s.
    """

    l_in: Floats
    l_out: Floats
    ttft_s: Floats
    decode_s: Floats
    first_tokens: Floats
    cell: npt.NDArray[np.int64]
    start_s: Floats
    chunk_tokens: float
    n_chunks: Floats
    n_arrivals: Floats
    reasoning_tokens: Floats
    tail_s: Floats

    def __len__(self) -> int:
        return len(self.l_in)

    def take(self, keep: npt.NDArray[np.bool_]) -> Observations:
        """Those where `keep`."""
        arrays: dict[str, Any] = {
            k: v[keep] for k, v in vars(self).items() if isinstance(v, np.ndarray)
        }
        return replace(self, **arrays)

    def ended_at_word(self) -> Observations:
        """The same, the answers ending when the server says so instead of with their last text."""
        return replace(self, decode_s=self.decode_s + self.tail_s)

    @property
    def total_s(self) -> Floats:
        """Sent to last chunk, s."""
        return self.ttft_s + self.decode_s


def chunk_tokens(l_out: Floats, n_chunks: Floats, first_share: Floats) -> float:
    """Tokens a chunk, where one number explains nine rows in ten; NaN elsewhere.

    Parameters
    ----------
    l_out, n_chunks : ndarray of float64, (n,)
        Tokens and chunks of each answer.
    first_share : ndarray of float64, (n,)
        The first chunk's share of the characters.
    """
    for size in range(1, int(l_out.max(initial=0)) + 1):
        # The last token may carry no text (an end token, half a character).
        chunks = np.ceil(l_out / size)
        one_less = np.ceil((l_out - 1) / size)
        explained = (n_chunks == chunks) | (n_chunks == np.maximum(one_less, 1))
        # Counts alone agree by coincidence: a token at once and then sixteen at a time, say.
        likely = np.minimum(float(size), l_out) / np.maximum(first_share * l_out, 1e-9)
        if explained.mean() >= 0.9 and 0.5 <= np.median(likely) <= 2.5:
            return float(size)
    return math.nan


def first_chunk_tokens(l_out: Floats, n_chunks: Floats, first_share: Floats) -> Floats:
    """k₁ of each row, (n,) tokens; parameters as of :func:`chunk_tokens`.

    Where no size explains the chunks: one, if the chunks grow token by token with L_out (the rest
    are hidden), the first chunk's share of the characters otherwise.
    """
    size = chunk_tokens(l_out, n_chunks, first_share)
    some = n_chunks > 0
    if not math.isfinite(size) and abs(tokens_a_chunk(l_out, n_chunks) - 1) < 0.05:
        size = 1.0
    by_share = np.clip(np.round(first_share * l_out), 1, np.maximum(l_out, 1))
    first = np.minimum(size, l_out) if math.isfinite(size) else by_share
    return np.where(some, first, l_out)


def tokens_a_chunk(l_out: Floats, n_chunks: Floats) -> float:
    """Growth of L_out with the chunks: hidden tokens do not count; NaN where chunks never vary."""
    some = n_chunks > 0
    x, y = n_chunks[some], l_out[some]
    if not len(x) or np.ptp(x) == 0:
        return math.nan
    return float(np.polyfit(x, y, 1)[0])


def observations(rows: pl.DataFrame, rtt_s: float = 0.0) -> Observations:
    """Answered requests of the grid and the reference cells.

    Parameters
    ----------
    rows : DataFrame
        Of a run's store.
    rtt_s : float
        Round trip to the endpoint, s: it belongs to the link, so it is taken off the TTFT.

    Raises
    ------
    FitError
        There are none.
    """
    kept = rows.filter(pl.col("phase").is_in(["grid", "reference"]) & pl.col("rejected").is_null())
    if kept.is_empty():
        counted = rows.filter(pl.col("rejected").is_not_null()).height
        raise FitError(f"no answered requests to fit: {rows.height} rows, {counted} rejected")

    def get(name: str) -> Floats:
        return kept[name].cast(pl.Float64).to_numpy()

    l_out, start = get("n_output_tokens"), get("start_ns") * 1e-9
    first, last = get("first_ns") * 1e-9, get("last_ns") * 1e-9
    n_chunks, share = get("n_chunks"), get("first_share")
    cells = kept.select(pl.struct("l_in", "l_out").rank("dense").cast(pl.Int64) - 1)
    arrivals, end = get("n_arrivals"), get("end_ns") * 1e-9
    return Observations(
        l_in=get("n_input_tokens"),
        l_out=l_out,
        ttft_s=first - start - rtt_s,
        decode_s=last - first,
        first_tokens=first_chunk_tokens(l_out, n_chunks, share),
        cell=cells.to_series().to_numpy(),
        start_s=start,
        chunk_tokens=chunk_tokens(l_out, n_chunks, share),
        n_chunks=n_chunks,
        n_arrivals=np.where(np.isnan(arrivals), n_chunks, arrivals),
        reasoning_tokens=get("reasoning_tokens"),
        tail_s=np.where(np.isnan(end), 0.0, end - last),
    )


def check(o: Observations) -> None:
    """Refuse requests that no fit can use; FitError says which and why."""
    check_lengths(o)
    timed = np.isfinite(o.ttft_s).all() and np.isfinite(o.decode_s).all()
    if not timed or (o.total_s <= 0).any():
        raise FitError("a request has no positive, finite time; was the round trip overestimated?")
    if (o.ttft_s <= 0).any() or (o.decode_s < 0).any():
        raise FitError("a request has no positive TTFT; was the round trip overestimated?")


def check_lengths(o: Observations) -> None:
    """Refuse too few requests, and lengths that never vary, with FitError."""
    cells = len(np.unique(o.cell))
    if cells < 3 or len(o) < 6:
        raise FitError(
            f"{len(o)} answered requests in {cells} cells: at least 6 in 3 cells are needed"
        )
    for name, got in (("L_in", o.l_in), ("L_out", o.l_out)):
        if np.ptp(got) == 0:
            raise FitError(
                f"every request has {name} = {got[0]:.0f}, whatever was asked: the grid is "
                "singular. Does the server cut lengths off (its context, its bound on answers)?"
            )
