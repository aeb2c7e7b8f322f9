"""What a router sees of a query beside its embedding: features of the text, and own columns.

In: a table, and which features are asked for. Out: numbers (N, F), those of the text first. The
features of a text are computed in Rust (:func:`text_features`), for a device as for a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cr2fast import _core
from cr2fast._core import TEXT_FEATURES, Cr2Error, EncoderInfo, text_features
from cr2fast._util.checks import shown, some

if TYPE_CHECKING:
    from cr2fast.data.queries import Queries

__all__ = ["TEXT", "TEXT_FEATURES", "asked", "of_table", "text_features"]

TEXT = "text"
# What a feature of one text may differ by where two programs compute it: none does by more.
_ROUNDING = 1e-4


def asked(features: bool | str | Sequence[str] | None) -> tuple[bool, list[str]]:
    """Whether features of the text are asked for, and which columns of the table are.

    Parameters
    ----------
    features : bool, str, sequence of str or None
        True is "text"; False and None are nothing.

    Raises
    ------
    Cr2Error
        What is no name, or a name twice.
    """
    if features is None or features is False:
        return False, []
    if features is True:
        return True, []
    names = [features] if isinstance(features, str) else features
    if not isinstance(names, Sequence) or not all(isinstance(n, str) and n for n in names):
        raise Cr2Error(
            f"features: expected True, False, or names of columns ('text' for those of the text), "
            f"got {shown(features)}"
        )
    if len(set(names)) != len(names):
        raise Cr2Error(f"features: expected each name once, got {shown(features)}")
    return TEXT in names, [n for n in names if n != TEXT]


def by_default(table: Queries) -> bool:
    """Whether a fit on this table looks at the text where it is not told.

    So it is where every query has a text (or a chat) and the table names the encoder of its
    embeddings. Such a table was made of texts, and its router can be asked by text. Of embeddings
    from an unknown encoder nobody can make more out of a text: who routes by them holds embeddings,
    and a router that also wants the text behind each would be of no use to them.
    """
    texts = table.extra.get(TEXT)
    known = table.encoder.id != EncoderInfo().id
    return known and texts is not None and all(isinstance(t, (str, list, tuple)) for t in texts)


def looks_at(features: dict[str, Any]) -> str:
    """What a router looks at beside the embedding, in words; `features` as of the router."""
    own = f"its caller's columns {shown(features['columns'])}"
    if not features["text"]:
        return own
    text = f"{len(TEXT_FEATURES)} features of the text"
    return f"{text} and {own}" if features["columns"] else text


def of_table(table: Queries, text: bool, columns: Sequence[str]) -> npt.NDArray[np.float32]:
    """The features of a table's queries, float32 (N, F).

    Raises
    ------
    Cr2Error
        No column of that name, no text for a query, or what is no finite number.
    """
    parts = [_texts(table)] if text else []
    parts += [_column(table, name) for name in columns]
    return np.concatenate(parts, axis=1)


def texts_of(table: Queries) -> list[Any]:
    """The texts behind a table's queries, or an error that says what to do without."""
    texts = table.extra.get(TEXT)
    if texts is None or any(t is None for t in texts):
        lacking = [] if texts is None else [i for i, t in enumerate(texts) if t is None]
        got = f"none for {some([table.query_ids[i] for i in lacking])}" if lacking else "none"
        rest = "leave those out (table.take), " if 0 < len(lacking) < len(table) else ""
        raise Cr2Error(
            f"features: expected a column 'text' with the text of every query, got {got}; {rest}"
            f"read a table with texts, or fit with features=False (--features none), which looks "
            f"at embeddings only"
        )
    return texts


def strange_rows(
    core: _core.Router, rows: npt.NDArray[np.float32], texts: Sequence[Any]
) -> tuple[npt.NDArray[np.int64], int]:
    """Rows whose features are not those of their texts, as this router scales them.

    Parameters
    ----------
    core : Router
        One that looks at the text.
    rows : ndarray of float32, (N, dim)
        Rows of its :meth:`cr2fast.Router.inputs`, as it is said.
    texts : sequence of (str or None), (N,)

    Returns
    -------
    (ndarray of int64, int)
        Indices of such rows, and how many have a text to tell by.
    """
    d, features = core.embedding_dim, core.features
    told = np.array([i for i, text in enumerate(texts) if text is not None], dtype=np.int64)
    if features is None or not features["text"] or not told.size:
        return told[:0], 0
    own = np.zeros((len(told), len(features["columns"])), np.float32)
    x = np.ascontiguousarray(rows[told, :d])
    made = core.inputs(x, [texts[i] for i in told.tolist()], own if own.shape[1] else None)
    of_text = slice(d, d + len(TEXT_FEATURES))
    wrong = np.abs(made[:, of_text] - rows[told, of_text]).max(axis=1) > _ROUNDING
    return told[wrong], len(told)


def check_rows(core: _core.Router, table: Queries) -> None:
    """Refuse a table whose rows are another router's, as far as their texts can tell."""
    texts = table.extra.get(TEXT) or [None] * len(table)
    wrong, _ = strange_rows(core, table.embeddings, texts)
    if wrong.size:
        raise Cr2Error(
            f"inputs: expected rows of this router, got others for "
            f"{table.query_ids[wrong[0]][:200]!r} ({wrong.size} of {len(table)}), whose features "
            f"are not those of its text as this router scales them: another router wrote them, "
            f"whose log recalibrate reads (logged_by=, --logged-by)"
        )


def _texts(table: Queries) -> npt.NDArray[np.float32]:
    return text_features(texts_of(table))


def _column(table: Queries, name: str) -> npt.NDArray[np.float32]:
    values = table.extra.get(name)
    if values is None:
        have = sorted(table.extra)
        raise Cr2Error(f"features: expected a column {name!r}, got a table with {shown(have)}")
    try:
        column = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise Cr2Error(
            f"features: expected numbers in the column {name!r}, got {shown(values[0])}"
        ) from None
    if column.shape != (len(table),):
        raise Cr2Error(
            f"features: expected one number per query in the column {name!r}, got an array of "
            f"shape {column.shape}"
        )
    if (bad := np.flatnonzero(~np.isfinite(column))).size:
        raise Cr2Error(
            f"features: expected finite numbers in the column {name!r}, got "
            f"{shown(values[bad[0]])} for {some([table.query_ids[i] for i in bad.tolist()])}"
        )
    return column[:, None]
