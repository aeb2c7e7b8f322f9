"""Routing tables: what each model made of each query.

In: two Parquet files (or polars frames), tidy: queries (``query_id``, ``n_input_tokens``,
``embedding``, optional ``category``) and outcomes (``query_id``, ``model``, ``correct``,
``n_output_tokens``). Out: :class:`RoutingTable`, aligned arrays with the local model first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import check_text, shown
from cr2fast.data import frames
from cr2fast.data.queries import Queries, QueryTable
from cr2fast.encoders.info import EncoderInfo

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, eq=False, repr=False)
class RoutingTable(Queries):
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
    notes : tuple of str
        What reading left out, with counts.
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
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n, m = len(self.query_ids), len(self.models)
        if n == 0:
            raise Cr2Error("routing table: expected at least one query, got none")
        if isinstance(self.models, str) or not all(isinstance(name, str) for name in self.models):
            raise Cr2Error(f"models: expected names, got {shown(self.models)}")
        if m < 2 or len(set(self.models)) != m:
            raise Cr2Error(
                f"models: expected a local and at least one edge model, distinct, got "
                f"{shown(self.models)}"
            )
        check_text(self.models, "models")
        object.__setattr__(self, "models", tuple(self.models))
        self._check(
            "routing table",
            {
                "embeddings": ((n, None), np.float32),
                "correct": ((n, m), np.bool_),
                "n_input_tokens": ((n,), np.uint32),
                "n_output_tokens": ((n, m), np.uint32),
            },
        )

    def __repr__(self) -> str:
        width = self.embeddings.shape[1]
        return f"RoutingTable({len(self)} queries, d={width}, models={self.models})"

    def _at(self, index: npt.NDArray[np.int64]) -> dict[str, Any]:
        return super()._at(index) | {
            "correct": self.correct[index],
            "n_output_tokens": self.n_output_tokens[index],
        }

    def queries(self) -> QueryTable:
        """The same queries without their answers."""
        kept = {f.name: getattr(self, f.name) for f in fields(QueryTable)}
        return QueryTable(**kept)

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
