"""What a fit made: networks, cost table, record; and what they say of queries.

In: an artifact, or what Rust fitted. Out: :class:`Fitted`, whose margins, accuracies and lengths
calibration and evaluation ask for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from cr2fast import _core
from cr2fast import features as feature_columns
from cr2fast._core import ArtifactError, CostTable, Cr2Error, LinkStates, SplitOverlapError
from cr2fast._util import renamed
from cr2fast._util.checks import check_choice, check_type
from cr2fast.data.queries import Queries, QueryTable
from cr2fast.data.table import RoutingTable
from cr2fast.encoders.info import EncoderInfo
from cr2fast.encoders.probes import Probed

Lengths = Literal["predicted", "known"]
Judge = Literal["teacher", "outcomes"]
Overlap = Literal["raise", "drop"]
R = TypeVar("R", bound="Fitted")
T = TypeVar("T", RoutingTable, QueryTable, RoutingTable | QueryTable)


class Fitted(Probed):
    """The part of a :class:`cr2fast.Router` that calibration does not change."""

    @classmethod
    def load(cls: type[R], path: str | Path, encoder: EncoderInfo | None = None) -> R:
        """Read an artifact.

        Parameters
        ----------
        path : path
            A ``router.safetensors``.
        encoder : EncoderInfo, optional
            The encoder in use; an error if it is not the router's.

        Raises
        ------
        ArtifactError
            The file is truncated, forged or newer, or of another encoder.
        OSError
            There is no such file, or no permission to read it.
        """
        try:
            core = _core.Router.load(path)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from None
        if encoder is not None:
            if not isinstance(encoder, EncoderInfo):
                raise TypeError(f"encoder: expected an EncoderInfo, got {type(encoder).__name__}")
            core.check_encoder(*encoder)
        return cls(core)

    def save(self, path: str | Path) -> None:
        """Write the artifact; the same router gives the same bytes.

        Parameters
        ----------
        path : path
            The file, replaced as a whole, whatever it held: the bytes are written to a temporary
            file beside it. (The commands refuse to write over a file that they read.)

        Raises
        ------
        OSError
            No such folder, no permission, a full disk; an existing file stays as it was.
        """
        self._core.save(path)

    def to_bytes(self) -> bytes:
        """The bytes that :meth:`save` writes."""
        return self._core.to_bytes()

    @classmethod
    def from_bytes(cls: type[R], data: bytes) -> R:
        """Read the bytes of an artifact; an ArtifactError if they are none."""
        return cls(_core.Router.from_bytes(data))

    @property
    def sha256(self) -> str:
        """Hash of the bytes that :meth:`save` writes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    @property
    def models(self) -> tuple[str, ...]:
        """(M,) names, the local model first."""
        return tuple(self._core.models)

    @property
    def dim(self) -> int:
        """Width of the rows it routes: the embedding's d, and F of its features."""
        return self._core.dim

    @property
    def features(self) -> dict[str, Any] | None:
        """What it looks at beside the embedding; None for nothing.

        `text` (whether features of the text are among them), `columns` (the caller's own),
        `names` (all F of them, in order), and `weight`.
        """
        return self._core.features

    @property
    def link_features(self) -> dict[str, tuple[float, float]] | None:
        """What of the link its gate sees; None for nothing.

        By name, mean and standard deviation over training's link states; a deviation of 0 marks
        what did not vary there, and is not looked at.
        """
        kept = self._core.link_features
        return None if kept is None else {name: (mean, sd) for name, mean, sd in kept}

    def inputs(
        self,
        queries: Queries | npt.NDArray[np.float32],
        texts: Sequence[Any] | None = None,
        features: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """The rows that gate, teacher and length predictor read.

        Parameters
        ----------
        queries : RoutingTable, QueryTable, or ndarray of float32 (N, d)
            A table brings its texts and columns along; embeddings need `texts` or `features`.
        texts : sequence of str or of chats, optional
            The texts behind the embeddings.
        features : ndarray of float32, (N, F), optional
            In place of texts, all features in the order of ``features["names"]``, those of the text
            as of :func:`cr2fast.text_features`; beside texts, the own columns only.

        Returns
        -------
        ndarray of float32, (N, dim)
            The embeddings as they are where the router has no features.

        Raises
        ------
        Cr2Error
            No texts, or no features, for a router that looks at them; another shape, NaN.
        """
        if isinstance(queries, Queries):
            if texts is not None or features is not None:
                raise Cr2Error("inputs: expected a table, or embeddings with texts, got both")
            kind = self.features
            # A decision log holds rows as they were routed.
            if kind is None:
                return queries.embeddings
            if queries.embeddings.shape[1] == self.dim:
                feature_columns.check_rows(self._core, queries)
                return queries.embeddings
            features = feature_columns.of_table(queries, kind["text"], kind["columns"])
            queries = queries.embeddings
        return self._core.inputs(queries, texts, features)

    @property
    def costs(self) -> CostTable:
        """The cost table of the fit, with T0 (seconds) and E0 (joules)."""
        return self._core.costs

    @property
    def training(self) -> dict[str, Any]:
        """Record of the fit: its options, losses by epoch, and checks."""
        record: dict[str, Any] = json.loads(self._core.training)
        return record

    @property
    def precision(self) -> str:
        """Number type of the parameter matrices: "float32", "float16" or "bfloat16"."""
        return self._core.precision

    weights = renamed.attribute("weights", "precision")

    def to_float16(self: R) -> R:
        """Round the parameter matrices to float16, which halves the file.

        Computation stays in float32, at the same speed, and a query's margin is the same bits from
        every call and on every processor.

        Returns
        -------
        Router
            Not calibrated: rounding changes the margins, and with them the thresholds.

        Raises
        ------
        Cr2Error
            A parameter is beyond 65504, the largest float16.
        """
        return type(self)(self._core.rounded("float16"))

    def to_bfloat16(self: R) -> R:
        """Round the parameter matrices to bfloat16: half the file, and quicker decisions.

        Bfloat16 is the upper half of a float32, three bits coarser than float16. A decision mostly
        waits for parameters to arrive from memory, and these are half as many bytes.

        Returns
        -------
        Router
            Not calibrated, as of :meth:`to_float16`.
        """
        return type(self)(self._core.rounded("bfloat16"))

    @property
    def parameters(self) -> dict[str, int]:
        """How many numbers `gate`, `teacher` (its networks) and, if any, `smoother` hold."""
        sizes = dict(zip(("gate", "teacher", "smoother"), self._core.parameters, strict=True))
        return {name: n for name, n in sizes.items() if n}

    @property
    def lengths(self) -> Lengths:
        """Which output lengths priced queries while the gate learned: "predicted" or "known"."""
        lengths: Lengths = self.training["config"]["lengths"]
        return lengths

    def margins(
        self,
        embeddings: npt.NDArray[np.float32],
        lams: npt.ArrayLike,
        threads: int = 0,
        *,
        states: LinkStates | None = None,
    ) -> npt.NDArray[np.float32]:
        """The gate's margins.

        Parameters
        ----------
        embeddings : ndarray of float32, (N, dim)
            Rows of :meth:`inputs`.
        lams : array_like of float, (L,)
            Cost weights.
        threads : int
            0: one per core.
        states : LinkStates, N of them, optional
            For a router with :attr:`link_features`; without them its gate decides as at the mean of
            training's links. Other routers do not look at them.

        Returns
        -------
        ndarray of float32, (L, N)

        Raises
        ------
        TypeError, Cr2Error
            Another dtype; another shape, NaN or infinity.
        """
        return self._core.margins(embeddings, lams, threads, states)

    def accuracies(
        self, embeddings: npt.NDArray[np.float32], threads: int = 0
    ) -> npt.NDArray[np.float32]:
        """The teacher's probability that each model answers correctly.

        Parameters
        ----------
        embeddings : ndarray of float32, (N, dim)
            Rows of :meth:`inputs`.
        threads : int
            0: one per core.

        Returns
        -------
        ndarray of float32, (N, M)

        Raises
        ------
        TypeError, Cr2Error
            As of :meth:`margins`.
        """
        return self._core.accuracies(embeddings, threads)

    def predict_lengths(
        self, embeddings: npt.NDArray[np.float32], n_input_tokens: npt.ArrayLike
    ) -> npt.NDArray[np.float64]:
        """The length predictor's expected output tokens.

        Parameters
        ----------
        embeddings : ndarray of float32, (N, dim)
            Rows of :meth:`inputs`.
        n_input_tokens : array_like, (N,)

        Returns
        -------
        ndarray of float64, (N, M)
            Tokens.

        Raises
        ------
        TypeError, Cr2Error
            As of :meth:`margins`.
        """
        return self._core.predict_lengths(embeddings, n_input_tokens)

    def check_table(
        self,
        table: T,
        what: str,
        *,
        after_calibration: bool,
        overlap: Overlap = "raise",
        answered: bool = True,
    ) -> T:
        """Refuse a table of other models or another encoder, or one that shares queries.

        Parameters
        ----------
        table : RoutingTable or QueryTable
        what : str
            What errors call the table.
        after_calibration : bool
            Also refuse queries that this router was calibrated on.
        overlap : {"raise", "drop"}
            What to do with queries used before, by id or by what they say: an error, or leave them
            out.
        answered : bool
            Whether it must be a RoutingTable; else a QueryTable will do.

        Returns
        -------
        RoutingTable or QueryTable
            The table, or what is left of it.

        Raises
        ------
        SplitOverlapError, Cr2Error
        """
        if answered or not isinstance(table, QueryTable):
            check_type(table, RoutingTable, what)
        check_choice(overlap, get_args(Overlap), "overlap")
        if isinstance(table, RoutingTable):
            self._core.check_models(what, list(table.models))
        self._core.check_encoder(*table.encoder)
        queries = (list(table.query_ids), table.content.asked)
        if overlap == "drop":
            shared = self._core.shared(*queries, after_calibration)
            if shared.all():
                raise SplitOverlapError(
                    f"{what}: expected queries that the router has not seen, got {len(table)} "
                    f"that it has, every one; give it another part of the data"
                )
            return table.take(~shared) if shared.any() else table
        self._core.check_disjoint(what, *queries, after_calibration)
        return table

    def costs_for(self, costs: CostTable | None) -> CostTable:
        """The router's cost table, once `costs`, if given, is found to be the same.

        T0 and E0 of `costs` are not compared: they follow from data, and the thresholds hold for
        the router's own.
        """
        if costs is not None:
            check_type(costs, CostTable, "costs")
            self._core.check_models("cost table", costs.models)
            if costs.sha256 != self.costs.sha256:
                raise Cr2Error(
                    f"costs: expected the cost table the router was fitted with "
                    f"(sha256 {self.costs.sha256}), got {costs.sha256}; fit again with the new one"
                )
        return self.costs

    def decision_costs(
        self, table: RoutingTable, states: LinkStates, lengths: Lengths
    ) -> npt.NDArray[np.float32]:
        """Costs c_m (N, M) as a decision maker sees them, with predicted or known lengths."""
        check_choice(lengths, get_args(Lengths), "lengths")
        n_output: npt.ArrayLike = table.n_output_tokens
        if lengths == "predicted":
            n_output = self.predict_lengths(self.inputs(table), table.n_input_tokens)
        return self.costs.cost(table.n_input_tokens, n_output, states)

    def judged_accuracies(self, table: RoutingTable, judge: Judge) -> npt.NDArray[np.float32]:
        """What the judge believes of each model, (N, M): the teacher's p, or the recorded y."""
        check_choice(judge, get_args(Judge), "judge")
        if judge == "teacher":
            return self.accuracies(self.inputs(table))
        return table.correct.astype(np.float32)

    reference_accuracies = renamed.method("reference_accuracies", "judged_accuracies")
