"""What a router reads of logged requests, whoever wrote the log.

A log holds what the networks of its router read: embeddings or, where that looks at features, rows
of :meth:`cr2fast.Router.inputs`: the embedding at unit length, then features scaled by the moments
of its training split. In: the rows of a log, a router, and the routers that wrote them. Out: that
router's own rows: the embedding where it looks at nothing else, rows made anew from logged texts
where the writer's features are not its own, or an error that says what lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import check_type, shown
from cr2fast.data.belonging import check_texts
from cr2fast.encoders.info import EncoderInfo
from cr2fast.features import looks_at, strange_rows
from cr2fast.router import Router
from cr2fast.traffic.log import embeddings

if TYPE_CHECKING:
    import polars as pl

F32 = npt.NDArray[np.float32]
# How many margins of some rows (embeddings, then the log's frame) a router gives, and of how many.
Agreeing = Callable[["pl.DataFrame", F32, Router], tuple[int, int]]
# Why a row is left out, as counts name it.
NO_TEXT = "without a text to make its features from"
_TEXTS_OF_ROWS = (
    "texts and rows of the log do not belong together; take the lines as the gateway wrote them"
)


def rows_of(
    frame: pl.DataFrame,
    router: Router,
    logged_by: Router | Sequence[Router],
    agreeing: Agreeing,
    encoder: Any = None,
) -> tuple[F32, npt.NDArray[np.bool_]]:
    """What `router` reads of the rows of a log, all of which have an embedding.

    Returns
    -------
    rows : ndarray of float32, (N, dim)
    there : ndarray of bool, (N,)
        False where a row lacks the text that it would be made of.

    Raises
    ------
    Cr2Error
        Rows whose router, and so whose encoder, is not known to be the right one; rows that are
        another router's, none of which can be read or made anew; texts of other rows.
    """
    others = [logged_by] if isinstance(logged_by, Router) else list(logged_by)
    for other in others:
        check_type(other, Router, "logged_by")
        _check_embedding(other, router)
    if encoder is not None:
        _check_encoder(encoder, router)
    known = {sha256(r.to_bytes()).hexdigest(): r for r in (*others, router)}
    hashes = frame["router"]
    out = np.zeros((frame.height, router.dim), np.float32)
    there = np.ones(frame.height, bool)
    strange: list[Router] = []
    for found in hashes.unique(maintain_order=True).to_list():
        at = np.flatnonzero((hashes == found).to_numpy())
        part = frame if len(at) == frame.height else frame[at.tolist()]
        writer = known.get(found)
        if writer is None:
            writer = _writer(part, found, (router, *others), agreeing)
        logged = embeddings(part, writer.dim)
        _check_texts(part, writer, logged, encoder)
        out[at], there[at] = _read_by(router, writer, part, logged)
        if not there[at].all():
            strange.append(writer)
    if strange and not there.any():
        raise _unreadable(router, strange[0], f"{len(there)} of {len(there)} have no text")
    return out, there


def _check_embedding(other: Router, router: Router) -> None:
    """Refuse a router whose embeddings mean nothing to this one."""
    ours, theirs = router.encoder, other.encoder
    if _differ(theirs, ours):
        raise Cr2Error(
            f"logged_by: expected a router of the encoder {_called(ours, theirs)}, got one of "
            f"{_called(theirs, ours)}; its embeddings mean nothing to this router"
        )
    if other.embedding_dim != router.embedding_dim:
        raise Cr2Error(
            f"logged_by: expected a router of embeddings of {router.embedding_dim} numbers, got "
            f"one of {other.embedding_dim}; its embeddings mean nothing to this router"
        )


def _check_encoder(encoder: Any, router: Router) -> None:
    if _differ(encoder.info, router.encoder):
        raise Cr2Error(
            f"encoder: expected the router's, {_called(router.encoder, encoder.info)}, got "
            f"{_called(encoder.info, router.encoder)}"
        )


def _called(one: EncoderInfo, other: EncoderInfo) -> str:
    """An encoder by its name, and by its hash too where the name does not tell it from another."""
    return repr(one.id[:200]) + (f" of SHA-256 {one.sha256}" if one.id == other.id else "")


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
        f"the router {found[:16]}... with {got}; pass the routers that wrote them with logged_by="
    )


def _check_texts(part: pl.DataFrame, writer: Router, logged: F32, encoder: Any) -> None:
    """Refuse texts of other rows: by the features that the row has, and by its embedding."""
    if "text" not in part.columns or part["text"].null_count() == part.height:
        return
    texts, ids = part["text"].to_list(), part["id"].to_list()
    wrong, told = strange_rows(writer._core, logged, texts)
    if wrong.size:
        raise Cr2Error(
            f"log: expected rows with the features of their texts, got others for "
            f"{ids[wrong[0]]!r} ({wrong.size} such rows of {told} with a text): {_TEXTS_OF_ROWS}"
        )
    if encoder is not None:
        check_texts(texts, logged[:, : writer.embedding_dim], ids, encoder, "log", _TEXTS_OF_ROWS)


def _read_by(
    router: Router, writer: Router, part: pl.DataFrame, logged: F32
) -> tuple[F32, npt.NDArray[np.bool_]]:
    """Rows of `writer` as `router` reads them, and which of them can be read."""
    everywhere = np.ones(part.height, bool)
    if writer._core.same_features(router._core):
        return logged, everywhere
    x = np.ascontiguousarray(logged[:, : router.embedding_dim])
    if router.features is None:
        _check_unit(router)
        return x, everywhere
    if router.features["columns"]:
        own = f"the columns {shown(router.features['columns'])} are in no log"
        raise _unreadable(router, writer, own)
    texts = part["text"].to_list() if "text" in part.columns else [None] * part.height
    there = np.array([text is not None for text in texts])
    out = np.zeros((part.height, router.dim), np.float32)
    if there.any():
        out[there] = router.inputs(x[there], [text for text in texts if text is not None])
    return out, there


def _check_unit(router: Router) -> None:
    """Refuse embeddings at unit length for a router that is known to read others."""
    if router.probes is None:
        return
    norms = np.linalg.norm(router.probes["vectors"], axis=1)
    if np.abs(norms - 1).max() > 1e-3:
        raise Cr2Error(
            f"log: expected embeddings as this router reads them, got those of a router with "
            f"features, which are at unit length; this router's have lengths up to "
            f"{norms.max():.4g}: replay a log that it wrote itself, or one of a router of "
            f"embeddings only"
        )


def _unreadable(router: Router, writer: Router, why: str) -> Cr2Error:
    remedy = (
        "set texts = true in the gateway's [log], from which its rows are made, "
        if router.features is not None and not router.features["columns"]
        else ""
    )
    return Cr2Error(
        f"log: expected rows as this router reads them ({_seen(router)}), got those of a router of "
        f"{_seen(writer)}{_difference(router, writer)}, and {why}; {remedy}fit with teacher= "
        f"that router, which keeps the scale, or fit this one with features=False (--features "
        f"none), which reads any log of its encoder"
    )


def _check_width(part: pl.DataFrame, router: Router) -> None:
    """Say of rows of another width whether it is features that make the difference."""
    widths = part["embedding"].list.len()
    alone = int((widths == router.embedding_dim).sum())
    if router.features is not None and alone:
        raise Cr2Error(
            f"log: expected rows of {router.dim} numbers, got embeddings only in {alone} of "
            f"{part.height}: this router also looks at {looks_at(router.features)}; pass the "
            f"router that wrote them with logged_by= where the log has texts, or fit with "
            f"features=False (--features none) to go on with this log"
        )
    if router.features is None and int((widths > router.dim).sum()) == part.height:
        raise Cr2Error(
            f"log: expected rows of {router.dim} numbers, got {widths[0]} for {part['id'][0]!r} "
            f"({part.height} such rows): a router that also looks at features wrote them, or one "
            f"of another encoder; pass the router that wrote them with logged_by=, and this one "
            f"reads their embeddings"
        )


def _seen(router: Router) -> str:
    if router.features is None:
        return "embeddings only"
    return f"{len(router.features['names'])} features"


def _difference(router: Router, writer: Router) -> str:
    """What two routers that look at features look at differently, in words."""
    ours, theirs = router.features, writer.features
    if ours is None or theirs is None:
        return ""
    if ours["names"] != theirs["names"]:
        only = [n for n in ours["names"] if n not in theirs["names"]]
        more = [n for n in theirs["names"] if n not in ours["names"]]
        said = [f"only this router looks at {shown(only)}"] if only else []
        said += [f"only that one looks at {shown(more)}"] if more else []
        return f" ({' and '.join(said) or 'the same in another order'})"
    return " (the same ones, which each router scales by its own training split)"


def _differ(a: EncoderInfo, b: EncoderInfo) -> bool:
    return a.sha256 != b.sha256 if a.sha256 and b.sha256 else a.id != b.id
