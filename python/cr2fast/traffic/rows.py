"""What a router reads of logged requests, whoever wrote the log.

A log holds what the networks of its router read: embeddings or, where that looks at features, rows
of :meth:`cr2fast.Router.inputs`, in which features are scaled by the moments of its training split.
In: the rows of a log, a router, and the routers that wrote them. Out: that router's own rows, made
anew from logged texts where the writer's are not the same, or an error that says what lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import check_type, shown
from cr2fast.encoders.info import EncoderInfo
from cr2fast.features import looks_at
from cr2fast.router import Router
from cr2fast.traffic.log import embeddings

if TYPE_CHECKING:
    import polars as pl

F32 = npt.NDArray[np.float32]
# How many margins of some rows (embeddings, then the log's frame) a router gives, and of how many.
Agreeing = Callable[["pl.DataFrame", F32, Router], tuple[int, int]]


def rows_of(
    frame: pl.DataFrame, router: Router, logged_by: Router | Sequence[Router], agreeing: Agreeing
) -> F32:
    """(N, dim): what `router` reads of the rows of a log, all of which have an embedding.

    Raises
    ------
    Cr2Error
        Rows whose router, and so whose encoder, is not known to be the right one; rows that are
        another router's, without texts to make them anew.
    """
    others = [logged_by] if isinstance(logged_by, Router) else list(logged_by)
    for other in others:
        check_type(other, Router, "logged_by")
        if _differ(other.encoder, router.encoder) or other.embedding_dim != router.embedding_dim:
            raise Cr2Error(
                f"logged_by: expected a router of the encoder {shown(tuple(router.encoder))}, got "
                f"one of {shown(tuple(other.encoder))}; its embeddings mean nothing to this router"
            )
    known = {sha256(r.to_bytes()).hexdigest(): r for r in (*others, router)}
    hashes = frame["router"]
    out = np.empty((frame.height, router.dim), np.float32)
    for found in hashes.unique(maintain_order=True).to_list():
        at = np.flatnonzero((hashes == found).to_numpy())
        part = frame if len(at) == frame.height else frame[at.tolist()]
        writer = known.get(found)
        if writer is None:
            writer = _writer(part, found, (router, *others), agreeing)
        logged = embeddings(part, writer.dim)
        out[at] = _read_by(router, writer, part, logged)
    return out


def _writer(
    part: pl.DataFrame, found: str, routers: Sequence[Router], agreeing: Agreeing
) -> Router:
    """The router whose gate gives the margins of these rows, bit for bit."""
    widths = part["embedding"].list.len()
    shares = []
    for router in routers:
        if (widths == router.dim).all():
            agree, asked = agreeing(part, embeddings(part, router.dim), router)
            if agree == asked > 0:
                return router
            shares.append((agree, asked))
    if not shares:
        # Of no router's width: said of the one that is asked.
        _check_width(part, routers[0])
        embeddings(part, routers[0].dim)
    agree, asked = max(shares)
    got = (
        f"{asked - agree} of {asked} margins that its gate does not give"
        if asked
        else "no margins to compare (an edge's log alone has none)"
    )
    raise Cr2Error(
        f"log: expected rows of this router or of one with its gate, got {part.height} rows of "
        f"the router {found[:16]}... with {got}; pass logged_by= the routers that wrote them"
    )


def _read_by(router: Router, writer: Router, part: pl.DataFrame, logged: F32) -> F32:
    """Rows of `writer` as `router` reads them."""
    if writer._core.same_features(router._core):
        return logged
    features = router.features
    texts = part["text"] if "text" in part.columns else None
    lacking = part.height if texts is None else texts.null_count()
    by_text = features is not None and not features["columns"]
    if by_text and texts is not None and not lacking:
        x = np.ascontiguousarray(logged[:, : router.embedding_dim])
        return router.inputs(x, texts.to_list())
    remedy = (
        f"set texts = true in the gateway's [log], from which its rows are made ({lacking} of "
        f"{part.height} have no text), "
        if by_text
        else ""
    )
    raise Cr2Error(
        f"log: expected rows as this router reads them ({_seen(router)}), got those of a router of "
        f"{_seen(writer)}; {remedy}fit with teacher= that router, which keeps the scale, or both "
        f"with features=False (--features none)"
    )


def _check_width(part: pl.DataFrame, router: Router) -> None:
    """Say of embeddings without features that they lack them."""
    alone = int((part["embedding"].list.len() == router.embedding_dim).sum())
    if router.features is not None and alone:
        raise Cr2Error(
            f"log: expected rows of {router.dim} numbers, got embeddings only in {alone} of "
            f"{part.height}: this router also looks at {looks_at(router.features)}; pass "
            f"logged_by= the router that wrote them where the log has texts, or fit with "
            f"features=False (--features none) to go on with this log"
        )


def _seen(router: Router) -> str:
    if router.features is None:
        return "embeddings only"
    return f"{len(router.features['names'])} features, scaled by its own training split"


def _differ(a: EncoderInfo, b: EncoderInfo) -> bool:
    return a.sha256 != b.sha256 if a.sha256 and b.sha256 else a.id != b.id
