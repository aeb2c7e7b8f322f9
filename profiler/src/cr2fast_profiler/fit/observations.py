"""Rows as the fits see them.

In: a run's rows. Out: arrays over the answered grid requests, one entry a request, which is the
unit of every resampling: the tokens of one request share its noise, so they are not independent.

The first chunk may carry several tokens, and only usage counts tokens: k₁, the tokens of the first
chunk, is L_out / chunks rounded up where one number explains every row (chunks of four, say), and
the first chunk's share of the answer's characters otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        Which cell of the grid each belongs to.
    start_s : ndarray of float64, (n,)
        When it was sent, s.
    """

    l_in: Floats
    l_out: Floats
    ttft_s: Floats
    decode_s: Floats
    first_tokens: Floats
    cell: npt.NDArray[np.int64]
    start_s: Floats

    def __len__(self) -> int:
        return len(self.l_in)

    def take(self, keep: npt.NDArray[np.bool_]) -> Observations:
        """Those where `keep`."""
        return replace(self, **{k: v[keep] for k, v in vars(self).items()})

    @property
    def total_s(self) -> Floats:
        """Sent to last chunk, s."""
        return self.ttft_s + self.decode_s


def first_chunk_tokens(l_out: Floats, n_chunks: Floats, first_share: Floats) -> Floats:
    """k₁ of each row, (n,) tokens.

    Parameters
    ----------
    l_out, n_chunks : ndarray of float64, (n,)
        Tokens and chunks of each answer.
    first_share : ndarray of float64, (n,)
        The first chunk's share of the characters.
    """
    if len(l_out) == 0:
        return np.zeros(0)
    by_share = first_share * l_out
    for size in range(1, int(l_out.max()) + 1):
        # The last token may carry no text (an end token, half a character).
        chunks = np.ceil(l_out / size)
        one_less = np.ceil((l_out - 1) / size)
        explained = (n_chunks == chunks) | (n_chunks == np.maximum(one_less, 1))
        # Counts alone agree by coincidence: a token at once and then sixteen at a time, say.
        likely = np.minimum(float(size), l_out) / np.maximum(by_share, 1e-9)
        if explained.mean() >= 0.9 and 0.5 <= np.median(likely) <= 2.5:
            return np.minimum(float(size), l_out)
    return np.clip(np.round(by_share), 1, l_out)


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
    first = get("first_ns") * 1e-9
    cells = kept.select(pl.struct("l_in", "l_out").rank("dense").cast(pl.Int64))
    return Observations(
        l_in=get("n_input_tokens"),
        l_out=l_out,
        ttft_s=first - start - rtt_s,
        decode_s=get("last_ns") * 1e-9 - first,
        first_tokens=first_chunk_tokens(l_out, get("n_chunks"), get("first_share")),
        cell=cells.to_series().to_numpy(),
        start_s=start,
    )
