"""Whether the rows of a log mean to a router what they meant to the one that wrote them.

A log holds what the networks read: embeddings or, of a router that looks at features, rows of
:meth:`cr2fast.Router.inputs`, in which features are scaled by the moments of its training split.
In: rows, and routers. Out: an error where a router would read them wrongly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cr2fast._core import Cr2Error
from cr2fast.features import looks_at
from cr2fast.router import Router

if TYPE_CHECKING:
    import polars as pl


def check_width(frame: pl.DataFrame, router: Router) -> None:
    """Refuse embeddings that lack the features which the router looks at."""
    if router.features is None:
        return
    alone = int((frame["embedding"].list.len() == router.embedding_dim).sum())
    if alone:
        raise Cr2Error(
            f"log: expected rows of {router.dim} numbers, got embeddings only in {alone} of "
            f"{frame.height}: the router that wrote them looks at nothing else, this one also at "
            f"{looks_at(router.features)}, which a log does not tell; fit with features=False "
            f"(--features none) to go on with this log"
        )


def check_scale(other: Router, router: Router) -> None:
    """Refuse a router whose rows are not those of `router`."""
    if other._core.same_features(router._core):
        return
    raise Cr2Error(
        f"logged_by: expected a router whose rows are this router's ({_rows(router)}), got one of "
        f"{_rows(other)}; a log holds features as the router that wrote it scales them: fit with "
        f"teacher= that router, which keeps the scale, or fit both with features=False "
        f"(--features none)"
    )


def _rows(router: Router) -> str:
    if router.features is None:
        return "embeddings only"
    return f"{router.dim} numbers, its features scaled by its own training split"
