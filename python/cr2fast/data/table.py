"""Routing tables: what each model made of each query.

In: tidy tables of any kind that :mod:`cr2fast.data.source` reads. Out: :class:`RoutingTable`,
aligned arrays with the local model first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import check_text, shown, some
from cr2fast._util.forked import check_polars
from cr2fast._util.progress import Shows
from cr2fast.data import answered, frames, reading
from cr2fast.data.embedding import Cache
from cr2fast.data.queries import Incomplete, Queries, QueryTable
from cr2fast.encoders.info import EncoderInfo

if TYPE_CHECKING:
    from cr2fast._core import StaticEncoder
    from cr2fast.encoders.onnx import Encoder


@dataclass(frozen=True, eq=False, repr=False)
class RoutingTable(Queries):
    """Aligned outcomes of M models on N queries.

    Attributes
    ----------
    query_ids : tuple of str
        (N,) unique ids.
    embeddings : ndarray of float32, (N, d)
        Query embeddings, of one frozen encoder.
    correct : ndarray of bool or float32, (N, M)
        Whether each model answers each query correctly (y), or grades of the answers in [0, 1]. The
        method takes a grade as the probability that an answer is right: utilities are
        u = y - lam c, losses are cross-entropies against y, accuracies are means of y.
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
    correct: npt.NDArray[np.bool_] | npt.NDArray[np.float32]
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
        _check_models(self.models)
        check_text(self.models, "models")
        object.__setattr__(self, "models", tuple(map(str, self.models)))
        self._check(
            "routing table",
            {
                "embeddings": ((n, None), np.float32),
                "correct": ((n, m), getattr(self.correct, "dtype", np.bool_)),
                "n_input_tokens": ((n,), np.uint32),
                "n_output_tokens": ((n, m), np.uint32),
            },
        )
        if self.correct.dtype not in (np.bool_, np.float32):
            raise Cr2Error(f"correct: expected bool or float32, got {self.correct.dtype}")
        if self.correct.dtype == np.float32:
            # NaN is neither.
            bad = np.flatnonzero(~((self.correct >= 0) & (self.correct <= 1)).all(axis=1))
            if bad.size:
                raise Cr2Error(
                    f"correct: expected grades in [0, 1], got others for "
                    f"{some([self.query_ids[i] for i in bad.tolist()])}"
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
        """Whether some model answers the query correctly, or with a grade above 0, (N,)."""
        return np.asarray((self.correct > 0).any(axis=1))

    @classmethod
    def read(
        cls,
        queries: Any,
        outcomes: Any = None,
        *,
        local: str,
        edge: Sequence[str],
        encoder: EncoderInfo | Encoder | StaticEncoder | None = None,
        incomplete: Incomplete = "raise",
        embed: bool = False,
        cache: Cache = True,
        progress: Shows = True,
    ) -> RoutingTable:
        """Read and align queries and outcomes.

        Parameters
        ----------
        queries : path, polars frame, or object with ``__arrow_c_stream__``
            A row per query: `query_id`, `n_input_tokens`, `embedding`, perhaps `category` and
            `text`. Paths are of Parquet, CSV, JSON Lines or Arrow IPC files; objects are those of
            pandas, pyarrow, DuckDB or Hugging Face datasets. Embeddings are lists or arrays of
            numbers of any type, in CSV text such as ``[0.1, 0.2]``, or columns ``embedding_0`` to
            ``embedding_<d-1>``.
        outcomes : of the same kinds, optional
            A row per query and model: `query_id`, `model`, `correct` (true or false, 0 or 1, or a
            grade in [0, 1]), `n_output_tokens`. Without it, `queries` has these columns too, a row
            per query and model.
        local : str
            Name of the device's model.
        edge : sequence of str
            Names of the edge models, in the order of the columns to come.
        encoder : EncoderInfo, Encoder or StaticEncoder, optional
            The encoder of the embeddings. An encoder itself, beyond its name, embeds the column
            `text` where there is no `embedding`, counts tokens where there are none, and checks
            embeddings that stand beside texts, as of :meth:`QueryTable.read`.
        incomplete : {"raise", "drop"}
            What to do with queries that lack the outcome of some model, or a value of their own, or
            whose embedding is damaged: an error, or leave them out and count them in `notes`. An
            outcome with a null in it counts as lacking.
        embed, cache, progress
            As of :meth:`QueryTable.read`.

        Raises
        ------
        Cr2Error
            Missing columns, duplicate ids, a model without outcomes, no query in common, nulls,
            wrong types; the message names them.
        RuntimeError
            A forked child of a process that had used polars, which would wait for ever.
        """
        check_polars("RoutingTable.read")
        reading.check_incomplete(incomplete)
        maker = reading.Maker(encoder, embed, cache, progress)
        maker.check()
        _check_edge(edge)
        models = (local, *edge)
        _check_models(models)
        found = frames.read(queries, outcomes, models, incomplete, maker)
        return cls(**found._asdict(), models=models)

    @classmethod
    def read_log(
        cls,
        log: Any,
        *,
        local: str,
        edge: Sequence[str] | None = None,
        columns: Mapping[str, str] | None = None,
        encoder: EncoderInfo | Encoder | StaticEncoder | None = None,
        incomplete: Incomplete = "drop",
        cache: Cache = True,
        progress: Shows = True,
    ) -> RoutingTable:
        """Read a log of calls, one row per call.

        Failed calls (an `error`, a `status` that says so) and calls without a score are left out.
        Calls of one query are told by its id or, where the log has no usable one, by its prompt.
        Several good calls of one model on one query become one, with the mean of their scores. What
        was left out or put together stands in `notes`, with counts.

        Parameters
        ----------
        log : path, polars frame, or object with ``__arrow_c_stream__``
            As of :meth:`read`. Columns may be called as usual tools call them (those of OpenAI,
            LiteLLM, Langfuse and Helicone among them): a prompt or chat messages, `model`, `score`
            (true or false, 0 or 1, or a grade in [0, 1]), and where there are some
            `prompt_tokens`, `completion_tokens`, `usd`, `seconds`, `error`.
        local : str
            Name of the device's model.
        edge : sequence of str, optional
            Names of the edge models, in the order of the columns to come; by default all others of
            the log, the cheapest first.
        columns : mapping, optional
            What the log calls the columns, where it is no usual name: ``{"score": "judge_grade"}``.
        encoder : Encoder or StaticEncoder
            Embeds the prompts (what a chat's last user turn says) and counts tokens that the log
            lacks: of prompts, and of answers where it has these. An EncoderInfo will do for a log
            with embeddings and tokens.
        incomplete : {"drop", "raise"}
            What to do with queries that lack a good call of some model: leave them out, or an
            error.
        cache, progress
            As of :meth:`QueryTable.read`.

        Returns
        -------
        RoutingTable
            The input tokens of a query are those of its local call or, where that has none, of the
            next model's that has. Columns `usd`, `seconds` and others are in `extra`. One that is
            not read but named as one that is, such as `correct` beside `score`, is called
            ``other.correct`` there.

        Raises
        ------
        Cr2Error
            Columns that are not there (the message shows the names that were tried), one model
            only, scores outside [0, 1], no query that all models answered.
        """
        check_polars("RoutingTable.read_log")
        reading.check_incomplete(incomplete)
        maker = reading.Maker(encoder, False, cache, progress)
        maker.check()
        _check_edge(edge)
        found, models = answered.read(log, local, edge, columns, maker, incomplete)
        return cls(**found._asdict(), models=models)


def _check_edge(edge: object) -> None:
    if isinstance(edge, str):
        raise Cr2Error(f"edge: expected a list of model names, got the string {shown(edge)}")


def _check_models(models: Sequence[str]) -> None:
    if len(models) < 2 or len(set(models)) < len(models):
        raise Cr2Error(
            f"models: expected a local and at least one edge model, distinct, got {shown(models)}"
        )
