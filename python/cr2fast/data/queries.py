"""Query tables: what was asked, without answers.

In: prompts or embeddings, from whatever :mod:`cr2fast.data.source` reads. Out: :class:`QueryTable`,
aligned arrays; :class:`Queries` is what it shares with :class:`cr2fast.RoutingTable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import check_text, check_unmasked, explained, shown, some
from cr2fast._util.forked import check_polars
from cr2fast._util.progress import Shows
from cr2fast._util.seeds import check_seed
from cr2fast.data import reading
from cr2fast.data.columns import LARGEST
from cr2fast.data.content import Keys, groups, keys
from cr2fast.data.embedding import Cache, embed
from cr2fast.encoders.info import EncoderInfo

if TYPE_CHECKING:
    from cr2fast._core import StaticEncoder
    from cr2fast.encoders.onnx import Encoder

Q = TypeVar("Q", bound="Queries")
Incomplete = Literal["raise", "drop"]


class Queries:
    """N queries: ids, embeddings, input tokens, and what can be done with any table of them."""

    query_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    n_input_tokens: npt.NDArray[np.uint32]
    categories: tuple[str, ...] | None
    encoder: EncoderInfo
    extra: dict[str, list[Any]]

    def _check(self, what: str, arrays: Mapping[str, tuple[tuple[int | None, ...], type]]) -> None:
        """Refuse arrays of other shapes and types than these, and columns of another length."""
        n = len(self.query_ids)
        if n == 0:
            raise Cr2Error(f"{what}: expected at least one query, got none")
        if not all(isinstance(i, str) for i in self.query_ids):
            raise Cr2Error("query_ids: expected strings, got other types among them")
        object.__setattr__(self, "query_ids", tuple(map(str, self.query_ids)))
        check_text(self.query_ids, "query_ids")
        if len(set(self.query_ids)) != n:
            raise Cr2Error("query_ids: expected unique ids, got duplicates")
        for name, (shape, kind) in arrays.items():
            array = getattr(self, name)
            check_unmasked(array, name)
            if not isinstance(array, np.ndarray):
                raise Cr2Error(
                    f"{name}: expected an array of {np.dtype(kind)}, got a {type(array).__name__}"
                )
            fits = array.ndim == len(shape) and all(
                want is None or want == got for want, got in zip(shape, array.shape, strict=True)
            )
            if not fits or array.dtype != kind:
                raise Cr2Error(
                    f"{name}: expected {np.dtype(kind)} of shape {shape}, "
                    f"got {array.dtype} of shape {array.shape}"
                )
        strata = self.categories
        if strata is not None:
            if len(strata) != n:
                raise Cr2Error(f"categories: expected {n} strings, got {len(strata)} values")
            if isinstance(strata, str) or not all(isinstance(c, str) for c in strata):
                raise Cr2Error(f"categories: expected {n} strings, got {shown(strata)}")
            object.__setattr__(self, "categories", tuple(map(str, strata)))
            check_text(strata, "categories")
        if not isinstance(self.encoder, EncoderInfo):
            raise TypeError(f"encoder: expected an EncoderInfo, got {type(self.encoder).__name__}")
        if not all(isinstance(part, str) for part in self.encoder):
            raise TypeError(
                f"encoder: expected a name and a hash, both text, got {shown(tuple(self.encoder))}"
            )
        check_text(self.encoder, "encoder")
        if not isinstance(self.extra, dict):
            raise TypeError(f"extra: expected a dict of lists, got {type(self.extra).__name__}")
        for name, values in self.extra.items():
            size = len(values) if hasattr(values, "__len__") else type(values).__name__
            if size != n:
                raise Cr2Error(f"extra: expected {n} values of {shown(name)}, got {size}")
        self._check_embeddings()

    def _check_embeddings(self) -> None:
        if not self.embeddings.shape[1]:
            raise Cr2Error("embeddings: expected at least one number per query, got none")
        for good, words in (
            (np.isfinite(self.embeddings), "finite numbers, got NaN or infinity"),
            (np.abs(self.embeddings) <= LARGEST, f"values up to {LARGEST:g}, got larger ones"),
        ):
            bad = np.flatnonzero(~good.all(axis=1))
            if bad.size:
                ids = some([self.query_ids[i] for i in bad.tolist()])
                raise Cr2Error(f"embeddings: expected {words} for {ids}")

    def __len__(self) -> int:
        return len(self.query_ids)

    @cached_property
    def content(self) -> Keys:
        """(N, K) keys of what each query says, whatever its id."""
        return keys(self.extra.get("text"), self.embeddings)

    def embed(
        self: Q,
        encoder: Encoder | StaticEncoder,
        threads: int = 0,
        *,
        cache: Cache = True,
        progress: Shows = False,
    ) -> Q:
        """Embed the column `text` with another encoder.

        Parameters
        ----------
        encoder : Encoder or StaticEncoder
        threads : int
            How many texts to embed at once; 0: one per core.
        cache, progress
            As of :meth:`QueryTable.read`.

        Returns
        -------
        RoutingTable or QueryTable
            The same table with these embeddings, and with `encoder` as their encoder.

        Raises
        ------
        Cr2Error
            The table has no column `text` of strings.
        """
        texts = self.extra.get("text")
        if texts is None or not all(isinstance(t, str) for t in texts):
            raise Cr2Error("text: expected a column `text` of strings to embed, got none")
        made = embed(encoder, texts, cache=cache, threads=threads, progress=progress)
        return replace(self, embeddings=made, encoder=encoder.info)  # type: ignore[type-var]

    def take(self: Q, rows: npt.ArrayLike) -> Q:
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
        return replace(self, **self._at(index))  # type: ignore[type-var]

    def _at(self, index: npt.NDArray[np.int64]) -> dict[str, Any]:
        """The fields of N values each, at these rows."""
        pick = index.tolist()
        return {
            "query_ids": tuple(self.query_ids[i] for i in pick),
            "embeddings": self.embeddings[index],
            "n_input_tokens": self.n_input_tokens[index],
            "categories": self.categories and tuple(self.categories[i] for i in pick),
            "extra": {k: [v[i] for i in pick] for k, v in self.extra.items()},
        }

    def split(
        self: Q, fractions: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0
    ) -> tuple[Q, ...]:
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
        tuple of RoutingTable or QueryTable
            One table per fraction; every query is in exactly one of them.
        """
        parts = _fractions(fractions)
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

    def split_by_content(
        self: Q, fractions: Sequence[float] = (0.6, 0.2, 0.1, 0.1), seed: int = 0
    ) -> tuple[Q, ...]:
        """Disjoint random parts, each query's told by what it says.

        A query falls in the same part whatever else the table holds and in whatever order: parts
        of a log that has grown hold what they held. Queries that say the same stay together, as of
        :meth:`split`. Sizes are those asked for on average only.

        Parameters
        ----------
        fractions : sequence of float
            Positive parts that sum to 1.
        seed : int
            Another seed gives other parts.

        Returns
        -------
        tuple of RoutingTable or QueryTable
            One table per fraction; every query is in exactly one of them.
        """
        parts = _fractions(fractions)
        salt = check_seed(seed).to_bytes(8, "little")
        # Of a group of rows with texts and without, the least key is the same in any order.
        least = np.full(len(self), np.iinfo(np.uint64).max, dtype=np.uint64)
        first = groups(self.content)
        np.minimum.at(least, first, self.content.kept[:, 0])
        draws = [
            int.from_bytes(blake2b(key.tobytes(), digest_size=8, key=salt).digest(), "little")
            for key in least[first]
        ]
        bounds = np.cumsum(parts)[:-1]
        label = np.searchsorted(bounds, np.array(draws, dtype=np.uint64) / 2.0**64, side="right")
        if np.bincount(label, minlength=len(parts)).min() < 1:
            raise Cr2Error(
                f"fractions: {len(self)} queries are too few for {tuple(fractions)}: none in a part"
            )
        return tuple(self.take(np.flatnonzero(label == k)) for k in range(len(parts)))


def _fractions(fractions: Sequence[float]) -> npt.NDArray[np.float64]:
    """Positive parts that sum to 1."""
    check_unmasked(fractions, "fractions")
    try:
        parts = np.asarray(fractions, dtype=float)
    except (TypeError, ValueError):
        raise Cr2Error(f"fractions: expected positive numbers, got {shown(fractions)}") from None
    if parts.ndim != 1 or not (parts > 0).all() or abs(parts.sum() - 1) > 1e-9:
        raise Cr2Error(
            f"fractions: expected positive numbers that sum to 1, got {shown(fractions)}"
        )
    return parts


@dataclass(frozen=True, eq=False, repr=False)
class QueryTable(Queries):
    """N queries without answers, as production traffic has them.

    Attributes
    ----------
    query_ids : tuple of str
        (N,) unique ids.
    embeddings : ndarray of float32, (N, d)
        Query embeddings, of one frozen encoder.
    n_input_tokens : ndarray of uint32, (N,)
        L_in.
    categories : tuple of str or None
        (N,) strata of :meth:`split`, where the queries have a column `category`.
    encoder : EncoderInfo
        The encoder of the embeddings.
    extra : dict of str to list
        Other columns as they were, lists of N; `text` among them.
    notes : tuple of str
        What reading left out, with counts.
    """

    query_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    n_input_tokens: npt.NDArray[np.uint32]
    categories: tuple[str, ...] | None = None
    encoder: EncoderInfo = EncoderInfo()  # noqa: RUF009 - immutable
    extra: dict[str, list[Any]] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.query_ids)
        self._check(
            "query table",
            {"embeddings": ((n, None), np.float32), "n_input_tokens": ((n,), np.uint32)},
        )

    def __repr__(self) -> str:
        return f"QueryTable({len(self)} queries, d={self.embeddings.shape[1]})"

    @classmethod
    def read(
        cls,
        queries: Any,
        *,
        encoder: EncoderInfo | Encoder | StaticEncoder | None = None,
        columns: Mapping[str, str] | None = None,
        incomplete: Incomplete = "raise",
        embed: bool = False,
        cache: Cache = True,
        progress: Shows = True,
    ) -> QueryTable:
        """Read queries: prompts, embeddings, or both.

        Parameters
        ----------
        queries : path, polars frame, object with ``__arrow_c_stream__``, or sequence of prompts
            A table with a column `embedding` (lists or arrays of numbers; in CSV text such as
            ``[0.1, 0.2]``; or columns ``embedding_0`` to ``embedding_<d-1>``), or with prompts
            (`text`, `prompt`, `messages` and other usual names), or both. `query_id`,
            `n_input_tokens` and `category` are read where they are there. Without ids, a query is
            called by a hash of what it says. A sequence holds strings or lists of chat messages.
        encoder : EncoderInfo, Encoder or StaticEncoder, optional
            The encoder of the embeddings. An encoder itself, beyond its name, embeds prompts where
            there is no column `embedding`, and counts tokens where there is no `n_input_tokens`.
            Where there are prompts and embeddings, it checks that they belong together: of a
            sample of rows or, a static one, of all.
        columns : mapping, optional
            What columns are called, by the names above: ``{"text": "question"}``.
        incomplete : {"raise", "drop"}
            What to do with rows that lack a value, or whose embedding is none (NaN, infinite, of
            another width): an error, or leave them out and count them in `notes`.
        embed : bool
            Embed the prompts even where there is a column `embedding`.
        cache : bool or path
            Whether to keep new embeddings on disk, or in which folder; by default in the system's
            cache folder.
        progress : bool or "lines"
            Draw a progress bar while embedding.

        Raises
        ------
        Cr2Error
            Neither embeddings nor prompts and an encoder, missing token counts, duplicate ids,
            nulls, wrong types, embeddings of other texts; the message names the rows.
        """
        check_polars("QueryTable.read")
        maker = reading.Maker(encoder, embed, cache, progress)
        found = reading.queries(queries, maker, columns or {}, incomplete)
        return cls(**found._asdict())
