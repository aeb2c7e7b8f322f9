"""Routing tables: what each model made of each query.

In: two Parquet files (or polars frames), tidy: queries (``query_id``, ``n_input_tokens``,
``embedding``, optional ``category``) and outcomes (``query_id``, ``model``, ``correct``,
``n_output_tokens``). Out: :class:`RoutingTable`, aligned arrays with the local model first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.optional import require
from cr2fast._util.seeds import check_seed
from cr2fast.encoders.info import EncoderInfo

if TYPE_CHECKING:
    import polars as pl

    from cr2fast._core import StaticEncoder
    from cr2fast.encoders.onnx import Encoder

QUERY_COLUMNS = ("query_id", "n_input_tokens", "embedding")
OUTCOME_COLUMNS = ("query_id", "model", "correct", "n_output_tokens")
_SHOWN = 5


def _some(items: Sequence[object]) -> str:
    """Up to five items, and how many there are."""
    shown = ", ".join(repr(i) for i in items[:_SHOWN])
    return shown if len(items) <= _SHOWN else f"{shown}, ... ({len(items)} in all)"


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
        Other columns as they were: lists of N for the queries, N lists of M for the outcomes.
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
                f"models: expected a local and at least one edge model, distinct, got {self.models}"
            )
        if not all(isinstance(i, str) for i in self.query_ids):
            raise Cr2Error("query_ids: expected strings, got other types among them")
        if len(set(self.query_ids)) != n:
            raise Cr2Error("query_ids: expected unique ids, got duplicates")
        for name, array, shape, kind in (
            ("embeddings", self.embeddings, (n, None), np.float32),
            ("correct", self.correct, (n, m), np.bool_),
            ("n_input_tokens", self.n_input_tokens, (n,), np.uint32),
            ("n_output_tokens", self.n_output_tokens, (n, m), np.uint32),
        ):
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
        bad = np.flatnonzero(~np.isfinite(self.embeddings).all(axis=1))
        if bad.size:
            raise Cr2Error(
                "embeddings: expected finite numbers, got NaN or infinity for "
                f"{_some([self.query_ids[i] for i in bad])}"
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
            What to do with queries that lack the outcome of some model: an error, or leave them
            out.

        Raises
        ------
        Cr2Error
            Missing columns, duplicate ids, a model without outcomes, no query in common, nulls,
            wrong types; the message names them.
        """
        if incomplete not in ("raise", "drop"):
            raise Cr2Error(f"incomplete: expected 'raise' or 'drop', got {incomplete!r}")
        if isinstance(edge, str):
            raise Cr2Error(f"edge: expected a list of model names, got the string {edge!r}")
        q = _frame(queries, "queries", QUERY_COLUMNS)
        o = _frame(outcomes, "outcomes", OUTCOME_COLUMNS)
        models = (local, *edge)
        q, matrix = _align(q, o, models, incomplete)
        known = (*QUERY_COLUMNS, "category")
        return cls(
            query_ids=tuple(q["query_id"].to_list()),
            embeddings=_embeddings(q),
            correct=np.stack([matrix[f"correct/{m}"].to_numpy() for m in models], axis=1),
            n_input_tokens=_tokens(q["n_input_tokens"], "queries.n_input_tokens"),
            n_output_tokens=np.stack(
                [
                    _tokens(matrix[f"n_output_tokens/{m}"], f"outcomes.n_output_tokens of {m}")
                    for m in models
                ],
                axis=1,
            ),
            models=models,
            categories=tuple(q["category"].cast(str).to_list()) if "category" in q else None,
            encoder=encoder or EncoderInfo(),
            extra={c: q[c].to_list() for c in q.columns if c not in known}
            | {
                c: [list(row) for row in matrix.select([f"{c}/{m}" for m in models]).iter_rows()]
                for c in o.columns
                if c not in OUTCOME_COLUMNS
            },
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
        picked = np.asarray(rows)
        try:
            index = np.arange(len(self))[picked if picked.size else picked.astype(int)]
        except IndexError as error:
            raise Cr2Error(f"rows: expected indices under {len(self)} or a mask: {error}") from None
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
        try:
            parts = np.asarray(fractions, dtype=float)
        except (TypeError, ValueError):
            raise Cr2Error(f"fractions: expected positive numbers, got {fractions!r}") from None
        if parts.ndim != 1 or not (parts > 0).all() or abs(parts.sum() - 1) > 1e-9:
            raise Cr2Error(f"fractions: expected positive numbers that sum to 1, got {fractions}")
        rng = np.random.default_rng(check_seed(seed))
        order = rng.permutation(len(self))
        # A shuffle, sorted by stratum and dealt out by a golden-ratio sequence: each run of
        # positions, so each stratum, gets its share of each part to within one or two queries, and
        # the parts have exactly the sizes asked for.
        if self.categories is not None:
            strata = np.unique(np.asarray(self.categories), return_inverse=True)[1]
            order = order[np.argsort(strata[order], kind="stable")]
        spread = (np.arange(len(self)) * 0.6180339887498949 + rng.random()) % 1.0
        rank = np.empty(len(self), dtype=int)
        rank[np.argsort(spread, kind="stable")] = np.arange(len(self))
        bounds = np.round(np.cumsum(parts) * len(self)).astype(int)
        if np.diff(bounds, prepend=0).min() < 1:
            raise Cr2Error(f"fractions: {len(self)} queries are too few for {tuple(fractions)}")
        label = np.searchsorted(bounds, rank, side="right")
        return tuple(self.take(np.sort(order[label == k])) for k in range(len(parts)))


def _frame(source: str | Path | pl.DataFrame, what: str, columns: Sequence[str]) -> pl.DataFrame:
    polars = require("polars", "lab")
    if isinstance(source, (str, Path)):
        if not Path(source).is_file():
            raise FileNotFoundError(f"{what}: expected a Parquet file, got no file at {source}")
        try:
            frame: pl.DataFrame = polars.read_parquet(source, glob=False)
        except (polars.exceptions.PolarsError, OSError) as error:
            raise Cr2Error(f"{what}: expected a Parquet file, got {source}: {error}") from error
    elif isinstance(source, polars.DataFrame):
        frame = source
    else:
        raise TypeError(f"{what}: expected a path or polars.DataFrame, got {type(source).__name__}")
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise Cr2Error(f"{what}: expected columns {list(columns)}, missing {missing}")
    if frame.is_empty():
        raise Cr2Error(f"{what}: expected at least one row, got none")
    needed = [*columns, *(["category"] if what == "queries" and "category" in frame else [])]
    nulls = [c for c in needed if frame[c].null_count()]
    if nulls:
        raise Cr2Error(f"{what}: expected no nulls, got some in {nulls}")
    text = [c for c in ("query_id", "model", "category") if c in needed]
    try:
        return frame.with_columns(polars.col(text).cast(polars.String))
    except polars.exceptions.PolarsError as error:
        kinds = {c: str(frame[c].dtype) for c in text}
        raise Cr2Error(f"{what}: expected text in {text}, got {kinds}") from error


def _align(
    q: pl.DataFrame, o: pl.DataFrame, models: Sequence[str], incomplete: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Queries with all outcomes, and these outcomes in as many rows, a column per model."""
    polars = require("polars", "lab")
    twice = q.filter(q["query_id"].is_duplicated())["query_id"].unique(maintain_order=True)
    if len(twice):
        raise Cr2Error(
            f"queries: expected unique query_id, got duplicates: {_some(twice.to_list())}"
        )
    if o["correct"].dtype != polars.Boolean:
        raise Cr2Error(f"outcomes.correct: expected Boolean, got {o['correct'].dtype}")
    known = set(o["model"].to_list())
    absent = [m for m in models if m not in known]
    if absent:
        raise Cr2Error(
            f"outcomes: expected every model of {list(models)}, got none of {absent}; "
            f"the file has {sorted(known)}"
        )
    o = o.filter(polars.col("model").is_in(list(models)))
    again = o.filter(o.select("query_id", "model").is_duplicated())
    if len(again):
        pairs = again.select("query_id", "model").unique(maintain_order=True).rows()
        raise Cr2Error(
            f"outcomes: expected one row per query_id and model, got more: {_some(pairs)}"
        )
    wide = q.select("query_id")
    for m in models:
        part = o.filter(polars.col("model") == m).select(
            "query_id",
            *(polars.col(c).alias(f"{c}/{m}") for c in o.columns if c not in ("query_id", "model")),
        )
        wide = wide.join(part, on="query_id", how="left", maintain_order="left")
    present = [polars.col(f"correct/{m}").is_not_null() for m in models]
    whole = wide.select(polars.all_horizontal(present)).to_series()
    if not whole.any():
        raise Cr2Error(
            "queries and outcomes: expected query ids in common, got none; "
            f"queries have {_some(q['query_id'].head(2).to_list())}, "
            f"outcomes have {_some(o['query_id'].head(2).to_list())}"
        )
    if incomplete == "raise" and not whole.all():
        lacking = q.filter(~whole)["query_id"].to_list()
        raise Cr2Error(
            f"outcomes: expected an outcome of every model for every query, {len(lacking)} queries "
            f"lack some ({_some(lacking)}); pass incomplete='drop' to leave them out"
        )
    return q.filter(whole), wide.filter(whole)


def _tokens(column: pl.Series, what: str) -> npt.NDArray[np.uint32]:
    if not column.dtype.is_integer():
        raise Cr2Error(f"{what}: expected integers, got {column.dtype}")
    values = column.to_numpy()
    if values.min() < 0 or values.max() > np.iinfo(np.uint32).max:
        raise Cr2Error(f"{what}: expected token counts, got {values.min()}..{values.max()}")
    return values.astype(np.uint32)


def _embeddings(q: pl.DataFrame) -> npt.NDArray[np.float32]:
    polars = require("polars", "lab")
    column = q["embedding"]
    if isinstance(column.dtype, polars.List):
        widths = column.list.len().unique().to_list()
        if len(widths) != 1 or not widths[0]:
            raise Cr2Error(f"queries.embedding: expected one width, got {_some(sorted(widths))}")
        column = column.list.to_array(widths[0])
    if not isinstance(column.dtype, polars.Array) or not column.dtype.inner.is_float():
        raise Cr2Error(f"queries.embedding: expected lists of float32, got {column.dtype}")
    if column.explode().null_count():
        raise Cr2Error("queries.embedding: expected no nulls inside, got some")
    return np.ascontiguousarray(column.to_numpy(), dtype=np.float32)
