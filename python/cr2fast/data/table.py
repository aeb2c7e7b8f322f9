"""Routing tables: what each model made of each query.

In: two Parquet files (or polars frames), tidy: queries (``query_id``, ``n_input_tokens``,
``embedding``, optional ``category``) and outcomes (``query_id``, ``model``, ``correct``,
``n_output_tokens``). Out: :class:`RoutingTable`, aligned arrays with the local model first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import check_text, check_unmasked, explained, shown, some
from cr2fast._util.seeds import check_seed
from cr2fast.data import frames
from cr2fast.data.content import Keys, groups, keys
from cr2fast.encoders.info import EncoderInfo

if TYPE_CHECKING:
    import polars as pl

    from cr2fast._core import StaticEncoder
    from cr2fast.encoders.onnx import Encoder


@dataclass(frozen=True, eq=False, repr=False)
class RoutingTable:
    """Aligned outcomes of M models on N queries.

    Attributes
    ----------
    query_ids : tuple of str
        (N,) unique ids.
    embeddings : ndarray of float32, (N, d)
        Query embeddings, of one frozen encoder.
    correct : ndarray of bool, (N, M)
        Whether each model answers each query correctly (y).
    n_input_tokens : ndarray of uint32, (N,)
        L_in.
    n_output_tokens : ndarray of uint32, (N, M)
        L_out.
    models : tuple of str
        (M,) names, the local model first.
    categories : tuple of str or None
        (N,) strata of :meth:`split`, where the queries have a column `category`.
    encoder : EncoderInfo
        The encoder of the embeddings.
    extra : dict of str to list
        Other columns as they were: lists of N for the queries, N lists of M for the outcomes. An
        outcomes' column whose name is also one of the queries is ``outcomes.<name>`` here.
    """

    query_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]
    n_input_tokens: npt.NDArray[np.uint32]
    n_output_tokens: npt.NDArray[np.uint32]
    models: tuple[str, ...]
    categories: tuple[str, ...] | None = None
    encoder: EncoderInfo = EncoderInfo()  # noqa: RUF009 - immutable
    extra: dict[str, list[Any]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        n, m = len(self.query_ids), len(self.models)
        if n == 0:
            raise Cr2Error("routing table: expected at least one query, got none")
        if m < 2 or len(set(self.models)) != m:
            raise Cr2Error(
                f"models: expected a local and at least one edge model, distinct, got "
                f"{shown(self.models)}"
            )
        if not all(isinstance(i, str) for i in self.query_ids):
            raise Cr2Error("query_ids: expected strings, got other types among them")
        check_text(self.query_ids, "query_ids")
        check_text(self.models, "models")
        if len(set(self.query_ids)) != n:
            raise Cr2Error("query_ids: expected unique ids, got duplicates")
        for name, array, shape, kind in (
            ("embeddings", self.embeddings, (n, None), np.float32),
            ("correct", self.correct, (n, m), np.bool_),
            ("n_input_tokens", self.n_input_tokens, (n,), np.uint32),
            ("n_output_tokens", self.n_output_tokens, (n, m), np.uint32),
        ):
            check_unmasked(array, name)
            fits = array.ndim == len(shape) and all(
                want is None or want == got for want, got in zip(shape, array.shape, strict=True)
            )
            if not fits or array.dtype != kind:
                raise Cr2Error(
                    f"{name}: expected {np.dtype(kind)} of shape {shape}, "
                    f"got {array.dtype} of shape {array.shape}"
                )
        strata = self.categories
        if strata is not None and (len(strata) != n or not all(isinstance(c, str) for c in strata)):
            raise Cr2Error(f"categories: expected {n} strings, got {len(strata)} values")
        check_text(strata or (), "categories")
        bad = np.flatnonzero(~np.isfinite(self.embeddings).all(axis=1))
        if bad.size:
            raise Cr2Error(
                "embeddings: expected finite numbers, got NaN or infinity for "
                f"{some([self.query_ids[i] for i in bad])}"
            )

    def __len__(self) -> int:
        return len(self.query_ids)

    def __repr__(self) -> str:
        width = self.embeddings.shape[1]
        return f"RoutingTable({len(self)} queries, d={width}, models={self.models})"

    @property
    def answerable(self) -> npt.NDArray[np.bool_]:
        """Whether some model answers the query correctly, (N,)."""
        return np.asarray(self.correct.any(axis=1))

    @cached_property
    def content(self) -> Keys:
        """(N, K) keys of what each query says, whatever its id."""
        return keys(self.extra.get("text"), self.embeddings)

    @classmethod
    def read(
        cls,
        queries: str | Path | pl.DataFrame,
        outcomes: str | Path | pl.DataFrame,
        *,
        local: str,
        edge: Sequence[str],
        encoder: EncoderInfo | None = None,
        incomplete: str = "raise",
    ) -> RoutingTable:
        """Read and align queries and outcomes.

        Parameters
        ----------
        queries, outcomes : path or polars.DataFrame
            The two tidy tables (Parquet when paths).
        local : str
            Name of the device's model.
        edge : sequence of str
            Names of the edge models, in the order of the columns to come.
        encoder : EncoderInfo, optional
            The encoder of the embeddings.
        incomplete : {"raise", "drop"}
            What to do with queries that lack the outcome of some model, or a value of their own: an
            error, or leave them out. An outcome with a null in it counts as lacking.

        Raises
        ------
        Cr2Error
            Missing columns, duplicate ids, a model without outcomes, no query in common, nulls,
            wrong types; the message names them.
        RuntimeError
            A forked child of a process that had used polars, which would wait for ever.
        """
        if incomplete not in ("raise", "drop"):
            raise Cr2Error(f"incomplete: expected 'raise' or 'drop', got {shown(incomplete)}")
        if isinstance(edge, str):
            raise Cr2Error(f"edge: expected a list of model names, got the string {shown(edge)}")
        models = (local, *edge)
        return cls(
            **frames.read(queries, outcomes, models, incomplete)._asdict(),
            models=models,
            encoder=encoder or EncoderInfo(),
        )

    def embed(self, encoder: Encoder | StaticEncoder, threads: int = 0) -> RoutingTable:
        """Embed the column `text` with another encoder.

        Parameters
        ----------
        encoder : Encoder or StaticEncoder
        threads : int
            How many texts to embed at once; 0: one per core.

        Returns
        -------
        RoutingTable
            The same table with these embeddings, and with `encoder` as their encoder.

        Raises
        ------
        Cr2Error
            The table has no column `text` of strings.
        """
        texts = self.extra.get("text")
        if texts is None or not all(isinstance(t, str) for t in texts):
            raise Cr2Error("text: expected a column `text` of strings to embed, got none")
        return replace(self, embeddings=encoder.encode(texts, threads), encoder=encoder.info)

    def take(self, rows: npt.ArrayLike) -> RoutingTable:
        """The queries at `rows` (indices, or a boolean mask), in that order."""
        check_unmasked(rows, "rows")
        picked = np.asarray(rows)
        try:
            index = np.arange(len(self))[picked if picked.size else picked.astype(int)]
        except IndexError as error:
            raise Cr2Error(
                f"rows: expected indices under {len(self)} or a mask: {explained(error)}"
            ) from None
        if index.ndim != 1:
            raise Cr2Error(f"rows: expected a list of rows, got shape {index.shape}")
        pick = index.tolist()
        return replace(
            self,
            query_ids=tuple(self.query_ids[i] for i in pick),
            embeddings=self.embeddings[index],
            correct=self.correct[index],
            n_input_tokens=self.n_input_tokens[index],
            n_output_tokens=self.n_output_tokens[index],
            categories=self.categories and tuple(self.categories[i] for i in pick),
            extra={k: [v[i] for i in pick] for k, v in self.extra.items()},
        )

    def split(
        self, fractions: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0
    ) -> tuple[RoutingTable, ...]:
        """Disjoint random parts, stratified by category where there is one.

        Queries that say the same (:func:`cr2fast.data.content.normalised`; where there are no
        texts, whose embeddings are the same) stay together, in the stratum of the first, so that no
        part holds a prompt of another under a new id. A part's size can move by as many.

        Parameters
        ----------
        fractions : sequence of float
            Positive parts that sum to 1.
        seed : int
            Seed of the shuffle; the same seed gives the same parts.

        Returns
        -------
        tuple of RoutingTable
            One table per fraction; every query is in exactly one of them.
        """
        check_unmasked(fractions, "fractions")
        try:
            parts = np.asarray(fractions, dtype=float)
        except (TypeError, ValueError):
            raise Cr2Error(
                f"fractions: expected positive numbers, got {shown(fractions)}"
            ) from None
        if parts.ndim != 1 or not (parts > 0).all() or abs(parts.sum() - 1) > 1e-9:
            raise Cr2Error(
                f"fractions: expected positive numbers that sum to 1, got {shown(fractions)}"
            )
        n = len(self)
        rng = np.random.default_rng(check_seed(seed))
        order = rng.permutation(n)
        # A shuffle, sorted by stratum and dealt out by a golden-ratio sequence: each run of
        # positions, so each stratum, gets its share of each part to within one or two queries, and
        # the parts have exactly the sizes asked for.
        if self.categories is not None:
            strata = np.unique(np.asarray(self.categories), return_inverse=True)[1]
            order = order[np.argsort(strata[order], kind="stable")]
        spread = (np.arange(n) * 0.6180339887498949 + rng.random()) % 1.0
        dealt = order[np.argsort(spread, kind="stable")]
        # The first of the queries that say the same is dealt, and takes the others along.
        first = groups(self.content)
        size = np.bincount(first, minlength=n)
        dealt = dealt[size[dealt] > 0]
        bounds = np.round(np.cumsum(parts) * n).astype(int)
        label = np.empty(n, dtype=int)
        label[dealt] = np.searchsorted(bounds, np.cumsum(size[dealt]) - size[dealt], side="right")
        label = label[first]
        if np.bincount(label, minlength=len(parts)).min() < 1:
            raise Cr2Error(
                f"fractions: {n} queries, of which {dealt.size} say different things, are too few "
                f"for {tuple(fractions)}"
            )
        return tuple(self.take(np.flatnonzero(label == k)) for k in range(len(parts)))
