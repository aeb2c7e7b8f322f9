"""One callable that routes batches, whatever engine hands them over.

In: a router's file and an operating point. Out: :class:`RouteBatches`, which Ray Data's
``map_batches``, Daft, polars and ``datasets.map`` call in their workers: Arrow in, Arrow out.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error, DeviceRouter, StaticEncoder, TwoStage
from cr2fast._util.checks import check_choice, check_threads, shown
from cr2fast.calibration import accepted
from cr2fast.data import chats
from cr2fast.encoders.info import sha256_of
from cr2fast.features import looks_at
from cr2fast.traffic import columns

Invalid = Literal["raise", "defer"]


class RouteBatches:
    """Decide for each row of a batch whether it stays on the device.

    Parameters
    ----------
    path : path
        A calibrated artifact that every worker can read. It is loaded in each worker when its first
        batch comes, and has to be the file that it was here: workers decide alike or fail.
    lam, alpha : float
        A calibrated operating point; `alpha` is optional, as of :meth:`Router.device`.
    encoder : path, StaticEncoder or Encoder, optional
        The router's encoder, to decide about texts: the file of a static one or a model's folder,
        which every worker can read, or the encoder itself.
    text : str, optional
        The column of texts or chat messages; by default "text", where there is an encoder.
    embedding : str
        The column of embeddings, float32 lists of the router's width (of rows as of
        :meth:`Router.inputs` where the router has features); not read where there is an encoder.
    group : str, optional
        The column of groups, where the router has thresholds per group.
    tokens : str, optional
        The column of input token counts. With it, rows get the name of their model too: the edge
        model of the greatest utility at the link as it typically is.
    invalid : {"raise", "defer"}
        What to do with a row without an embedding, or with NaN or infinity in it: an error, or
        defer it, without a margin.
    prefix : str
        Of the names of the columns that are added.
    threads : int
        Per call; 0: one per core. Engines run a worker per core, so one is the default.

    Notes
    -----
    Columns that are added: ``local`` (bool), ``margin`` (float32, null where a row is invalid) and,
    with `tokens`, ``model``. A batch is a ``pyarrow.Table`` or ``RecordBatch``, a polars or pandas
    ``DataFrame``, or a dictionary of arrays; what comes back is of the same kind. Types do not
    depend on the rows, so that a batch without any, or without a valid one, has the schema of the
    others; only NumPy has no type for text that lacks: of a dictionary, ``model`` is then an array
    of objects.

    Raises
    ------
    ArtifactError, OperatingPointError, Cr2Error, OSError
        Here, not in a worker, where the file, the point or the encoder is wrong.

    Examples
    --------
    >>> route = RouteBatches("router.safetensors", 1.0, 0.05)  # doctest: +SKIP
    >>> ray.data.read_parquet("in/").map_batches(
    ...     route, batch_format="pyarrow", zero_copy_batch=True)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        lam: float,
        alpha: float | None = None,
        encoder: Any = None,
        *,
        text: str | None = None,
        embedding: str = "embedding",
        group: str | None = None,
        tokens: str | None = None,
        invalid: Invalid = "raise",
        prefix: str = "",
        threads: int = 1,
    ) -> None:
        check_choice(invalid, get_args(Invalid), "invalid")
        if text is not None and encoder is None:
            raise Cr2Error("text: expected an encoder for texts, got none; pass encoder=")
        self.path = str(Path(path).resolve())
        self.encoder = str(Path(encoder).resolve()) if isinstance(encoder, (str, Path)) else encoder
        self.text = text or ("text" if encoder is not None else None)
        self.embedding, self.group, self.tokens = embedding, group, tokens
        self.invalid, self.prefix = invalid, prefix
        self.threads = check_threads(threads)
        self.sha256 = sha256_of(path)
        device = DeviceRouter.load(path, lam, alpha)
        self.lam, self.alpha, self.dim = device.lam, device.alpha, device.dim
        if (device.groups is None) != (group is None):
            raise Cr2Error(
                "group: expected the column of groups, since the router has thresholds per group"
                if group is None
                else f"group: expected none, since the router has no groups, got {shown(group)}"
            )
        self.__name__ = f"RouteBatches({Path(path).name})"  # What engines call a function by.
        self._load()

    def _load(self) -> tuple[DeviceRouter, TwoStage | None, Any]:
        """The routers and the encoder, once per process."""
        encoder = _encoder(self.encoder) if isinstance(self.encoder, str) else self.encoder
        device, two = _routers(
            self.path, self.sha256, self.lam, self.alpha, self.tokens is not None
        )
        if encoder is not None:
            _check_encoder(self.path, self.lam, self.alpha, encoder)
        return device, two, encoder

    def __call__(self, batch: Any) -> Any:
        """The batch with the decisions of its rows.

        Raises
        ------
        Cr2Error, TypeError
            No such column; embeddings of another width or type; an invalid row; no batch.
        """
        device, two, encoder = self._load()
        kind = columns.kind_of(batch)
        if self.text is not None:
            texts = columns.texts(batch, kind, self.text)
            if self.text != "text":  # A column of this very name holds what is embedded.
                texts = chats.prompts(texts, f"batch.{self.text}")
            chunks = [_encoded(encoder, texts, self, device)]
        else:
            chunks = self._rows(batch, kind, device)
        groups = None if self.group is None else columns.texts(batch, kind, self.group)
        margins, known, local = [], [], []
        start = 0
        for x, there in chunks:
            some = None if groups is None else groups[start : start + len(x)]
            start += len(x)
            m, ok, kept = self._decide(device, x, there, some)
            margins.append(m)
            known.append(ok)
            local.append(kept)
        margin = np.concatenate(margins) if margins else np.empty(0, np.float32)
        keep = np.concatenate(local) if local else np.empty(0, bool)
        good = np.concatenate(known) if known else np.empty(0, bool)
        added: dict[str, Any] = {
            "local": keep,
            "margin": margin if good.all() else np.ma.MaskedArray(margin, ~good),
        }
        if two is not None and self.tokens is not None:
            n_input = columns.counts(batch, kind, self.tokens)
            added["model"] = self._models(two, [x for x, _ in chunks], n_input, good, groups)
        return columns.extended(batch, kind, {self.prefix + k: v for k, v in added.items()})

    def _rows(self, batch: Any, kind: str, device: DeviceRouter) -> list[tuple[Any, Any]]:
        """The column of embeddings, in chunks."""
        try:
            return list(columns.matrices(batch, kind, self.embedding, self.dim))
        except columns.WidthError as error:
            features = device.features
            if features is None or error.widths != {self.dim - len(features["names"])}:
                raise
            text = "pass encoder= to decide about texts, " if not features["columns"] else ""
            raise Cr2Error(
                f"{self.embedding}: expected rows of {self.dim} numbers, got embeddings only: this "
                f"router also looks at {looks_at(features)}; {text}write rows of Router.inputs to "
                f"the column, or fit with features=False for a router that looks at embeddings only"
            ) from None

    def _decide(
        self,
        device: DeviceRouter,
        x: npt.NDArray[np.float32],
        there: Any,
        groups: list[str | None] | None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Margins, which rows are valid, and which stay local."""
        n = len(x)
        good = np.ones(n, bool) if there is None else there
        if not n:
            return np.empty(0, np.float32), good, good
        if not good.all() and self.invalid == "raise":
            raise Cr2Error(
                f"{self._column}: expected an embedding in every row, got none in "
                f"{int((~good).sum())} of {n}; pass invalid='defer' to defer those"
            )
        try:
            margin = device.margins(x, self.threads)
        except Cr2Error:
            # Found by the kernel itself, so that good batches are looked at once.
            finite = np.isfinite(x).all(axis=1)
            if self.invalid == "raise" or finite.all():
                raise
            good = good & finite
            margin = device.margins(np.where(good[:, None], x, np.float32(0)), self.threads)
        if groups is None:
            keep = accepted(margin[None], np.array([[device.threshold]], np.float32))[0, 0]
        else:
            tau = {g: device.threshold_of(g) for g in set(groups)}
            each = np.array([tau[g] for g in groups], np.float32)
            # The rule, row by row: each row is a cost weight's only query.
            keep = accepted(margin[:, None], each[:, None])[:, 0, 0]
        if (level := device.defer_atypical) is not None:
            rows = x if good.all() else np.where(good[:, None], x, np.float32(0))
            keep = keep & (device.p_values(rows, self.threads) > level)
        return margin, good, keep & good

    @property
    def _column(self) -> str:
        return self.embedding if self.text is None else self.text

    def _models(
        self,
        two: TwoStage,
        chunks: list[npt.NDArray[np.float32]],
        n_input: npt.NDArray[np.float64],
        good: npt.NDArray[np.bool_],
        groups: list[str | None] | None,
    ) -> list[str | None]:
        """The model of each row; None where a row is invalid."""
        out: list[str | None] = [None] * len(good)
        rows = np.flatnonzero(good)
        if rows.size:
            x = np.ascontiguousarray(np.concatenate(chunks)[rows])
            named = None if groups is None else [groups[i] for i in rows.tolist()]
            index = np.asarray(
                two.route_batch(x, n_input[rows], threads=self.threads, groups=named).index
            )
            for row, k in zip(rows.tolist(), index.tolist(), strict=True):
                out[row] = two.models[k]
        return out

    def __repr__(self) -> str:
        return f"RouteBatches({self.path!r}, lam={self.lam:g}, alpha={self.alpha:g})"


def _encoded(
    encoder: Any, texts: list[Any], route: RouteBatches, device: DeviceRouter
) -> tuple[Any, Any]:
    def rows(texts: list[Any]) -> Any:
        return device.inputs(encoder.encode(texts, route.threads), texts)

    there = np.array([t is not None for t in texts], bool)
    if not len(texts):
        return np.empty((0, route.dim), np.float32), None
    if there.all():
        return rows(texts), None
    x = np.zeros((len(texts), route.dim), np.float32)
    if there.any():
        x[there] = rows([t for t in texts if t is not None])
    return x, there


@lru_cache(maxsize=8)
def _routers(
    path: str, sha256: str, lam: float, alpha: float, both: bool
) -> tuple[DeviceRouter, TwoStage | None]:
    found = sha256_of(path)
    if found != sha256:
        raise Cr2Error(
            f"router: expected the artifact of SHA-256 {sha256} in {path}, got {found}: it was "
            f"replaced since the job began; begin again with the new one"
        )
    two = TwoStage.load(path, lam, alpha) if both else None
    return DeviceRouter.load(path, lam, alpha), two


@lru_cache(maxsize=2)
def _encoder(source: str) -> Any:
    if Path(source).is_file():
        return StaticEncoder.load(source)
    from cr2fast.encoders.onnx import Encoder

    return Encoder.load(source)


def _check_encoder(path: str, lam: float, alpha: float, encoder: Any) -> None:
    """Refuse an encoder that is not the router's; once per encoder and router."""
    key = (path, tuple(encoder.info))
    if key not in _CHECKED:
        DeviceRouter.load(path, lam, alpha, encoder=encoder.info)
        _CHECKED.add(key)


_CHECKED: set[tuple[str, tuple[str, ...]]] = set()
