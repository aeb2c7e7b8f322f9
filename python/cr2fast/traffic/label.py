"""Label logged requests by the teacher, as calibration does, without an answer.

In: the rows of a log, with their embeddings, and a router. Out: for each request its margin and
r = 1[full-information choice is an edge model], which needs the embedding, L_in and the link's
state only (equations 46-48, 62), no answer. So each request is labelled, wherever it went.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cr2fast import _core
from cr2fast._core import Cr2Error, LinkState, LinkStates
from cr2fast._util import seeds
from cr2fast._util.checks import check_choice, check_type
from cr2fast._util.optional import require
from cr2fast.router import Router
from cr2fast.traffic import files
from cr2fast.traffic.lines import LINK
from cr2fast.traffic.log import DecisionLog, LogWarning, open_log
from cr2fast.traffic.rows import NO_TEXT, rows_of

if TYPE_CHECKING:
    import polars as pl

Log = DecisionLog | files.Paths
Link = Literal["measured", "logged", "table"]
# Where a margin and a threshold decided, whichever place answered in the end.
ROUTED = ("accepted", "deferred", "edge-down", "device-down", "budget", "returned")
# Why a routed row is left out, as counts name it.
NO_EMBEDDING = "no embedding or token count"
# Rows per router of a log whose margins are computed again.
_CHECKED = 512


@dataclass(frozen=True, eq=False)
class Traffic:
    """The requests of a log that a threshold decided and that can be decided anew.

    Attributes
    ----------
    frame : polars.DataFrame
        Their rows, as of :attr:`DecisionLog.frame`.
    embeddings : ndarray of float32, (N, dim)
        What the router reads: rows of its :meth:`cr2fast.Router.inputs`.
    n_input_tokens : ndarray of float64, (N,)
        L_in as the gateway estimated it when it decided or, where it did not, as a model counted.
    left_out : dict of str to int
        Other rows, by why: named models, images, texts too long for the device; no embedding.
    lost : dict of str to str
        "accepted" or "deferred" where all such requests were left out, and why.
    """

    frame: pl.DataFrame
    embeddings: npt.NDArray[np.float32]
    n_input_tokens: npt.NDArray[np.float64]
    left_out: dict[str, int]
    lost: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.frame.height

    @property
    def accepted(self) -> npt.NDArray[np.bool_]:
        """Whether the threshold kept the request local when it was logged, (N,).

        Where its answer was made can differ: a place was down, or a budget decided.
        """
        polars = require("polars", "lab")
        why = polars.col("why")
        by_rule = (polars.col("margin") >= polars.col("threshold")).fill_null(False)
        decided = self.frame.select(
            why.is_in(["accepted", "device-down"]) | ((why == "budget") & by_rule)
        ).to_series()
        return np.asarray(decided.to_numpy(), dtype=bool)

    def take(self, rows: npt.NDArray[np.bool_]) -> Traffic:
        """The requests of a mask (N,)."""
        polars = require("polars", "lab")
        return Traffic(
            self.frame.filter(polars.Series(rows)),
            self.embeddings[rows],
            self.n_input_tokens[rows],
            self.left_out,
            self.lost,
        )


def opened(log: Log) -> DecisionLog:
    """A log, read where it is still a path."""
    return log if isinstance(log, DecisionLog) else open_log(log)


def traffic_of(
    log: Log, router: Router, logged_by: Router | Sequence[Router] = (), encoder: Any = None
) -> Traffic:
    """The requests that `router` can decide anew.

    Parameters
    ----------
    log : DecisionLog, path, pattern or sequence of paths
        Read as of :func:`cr2fast.traffic.open_log`.
    router : Router
    logged_by : Router or sequence of Router
        Earlier routers whose decisions the log holds. Not needed for `router` itself, nor for a
        router with the same gate, such as one that was recalibrated since: margins that agree bit
        for bit show that one gate saw embeddings of one encoder. A log holds features as its
        router scales them: for a router that scales them otherwise its rows are made anew from
        texts (``texts = true`` in the gateway's ``[log]``), and those without a text are left out
        and counted. A router of embeddings only reads the embeddings of any log of its encoder.
    encoder : Encoder or StaticEncoder, optional
        The router's encoder, where it is at hand: logged texts and embeddings are then checked to
        belong together.

    Raises
    ------
    Cr2Error
        Rows of a router that is not known, or of another encoder; no row with an embedding, or with
        the text that this router needs; texts of other rows.
    """
    polars = require("polars", "lab")
    check_type(router, Router, "router")
    found = opened(log)
    frame = found.frame
    routed = frame.filter(polars.col("why").is_in(ROUTED))
    left_out = found.undecided(ROUTED)
    tokens = polars.coalesce("n_input_tokens_estimated", "n_input_tokens")
    usable = routed.filter(polars.col("embedding").is_not_null() & tokens.is_not_null())
    if lacking := routed.height - usable.height:
        left_out[NO_EMBEDDING] = lacking
    if not frame.height:
        raise Cr2Error(
            f"log: expected requests of the window, got none; {found.found.outside} came before or "
            f"after it"
        )
    if not routed.height:
        others = ", ".join(f"{n} {why}" for why, n in left_out.items())
        raise Cr2Error(
            f"log: expected requests that a threshold decided (why: {', '.join(ROUTED)}), got none "
            f"among {frame.height}: {others[:200]}"
        )
    if not usable.height:
        raise Cr2Error(
            f"log: expected routed requests with embeddings, got {routed.height} routed of "
            f"{frame.height} and {usable.height} with one; set embedding = true in the gateway's "
            f"[log]{found.unread()}"
        )
    x, there = rows_of(usable, router, logged_by, _agreeing, encoder)
    lost = dict.fromkeys(_lost(routed, usable), NO_EMBEDDING)
    if not there.all():
        embedded = usable
        left_out[NO_TEXT] = int((~there).sum())
        usable, x = usable.filter(polars.Series(there)), x[there]
        lost |= dict.fromkeys(_lost(embedded, usable), NO_TEXT)
    n = usable.select(tokens.cast(polars.Float64)).to_series().to_numpy()
    return Traffic(usable, x, np.ascontiguousarray(n), left_out, lost)


def _lost(before: pl.DataFrame, after: pl.DataFrame) -> list[str]:
    """Which of the two decisions no row is left of."""
    return [
        why
        for why in ("accepted", "deferred")
        if (before["why"] == why).any() and not (after["why"] == why).any()
    ]


def groups_of(traffic: Traffic, router: Router) -> list[str | None] | None:
    """The group (N,) that each request named; None where the router has no groups."""
    calibration = router.calibration
    if calibration is None or calibration["groups"] is None:
        return None
    names: list[str | None] = traffic.frame["group"].to_list()
    return names


def check_both_places(traffic: Traffic) -> None:
    """Refuse traffic of one place only, which is no sample of all requests.

    Raises
    ------
    Cr2Error
    """
    frame = traffic.frame
    if frame["margin"].null_count() == frame.height and not (frame["why"] == "accepted").any():
        raise Cr2Error(
            f"log: expected requests that stayed on the device too, got an edge's log alone "
            f"({frame.height} requests, none with a margin), which is no sample of all requests; "
            f"read the device's log beside it"
        )
    for place, why in traffic.lost.items():
        what, setting = ("texts", "texts") if why == NO_TEXT else ("embeddings", "embedding")
        raise Cr2Error(
            f"log: expected {what} of {place} requests too, got none (left out: "
            f"{traffic.left_out[why]} {why}); read the device's log beside the edge's, both with "
            f"{setting} = true in [log]"
        )


def _agreeing(frame: pl.DataFrame, x: npt.NDArray[np.float32], router: Router) -> tuple[int, int]:
    """How many of some rows have the margin that this router gives them, and of how many."""
    margin, lam = frame["margin"].to_numpy(), frame["lam"].to_numpy()
    rows = np.flatnonzero(np.isfinite(margin) & np.isfinite(lam))
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _CHECKED)).astype(int)]
    ours = margins_at(router, x[rows], lam[rows], seen_states(frame[rows.tolist()], router))
    return int((ours == margin[rows]).sum()), len(rows)


def margins_at(
    router: Router,
    x: npt.NDArray[np.float32],
    lam: npt.NDArray[np.float64],
    states: LinkStates | None,
) -> npt.NDArray[np.float32]:
    """Margins (N,) of queries (N, d), each at its own cost weight (N,) and link state."""
    out = np.empty(len(x), np.float32)
    for value in np.unique(lam):
        rows = lam == value
        those = None if states is None else _of_rows(states, rows)
        out[rows] = router.margins(np.ascontiguousarray(x[rows]), [value], states=those)[0]
    return out


def _of_rows(states: LinkStates, rows: npt.NDArray[np.bool_]) -> LinkStates:
    return LinkStates(states.rate_ul_bps[rows], states.rate_dl_bps[rows], states.rtt_s[rows])


def seen_states(frame: pl.DataFrame, router: Router) -> LinkStates | None:
    """The link states that a gate which sees the link decided with; None for other gates."""
    if router.link_features is None:
        return None
    typical = _typical(router)
    columns = {n: frame[n].to_numpy().astype(np.float64) for n in LINK}
    rtt, up, down = (
        np.where(np.isnan(x), getattr(typical, name), x) for name, x in columns.items()
    )
    return LinkStates(up, down, rtt)


def link_states(
    traffic: Traffic, router: Router, link: Link = "measured", seed: int = 0
) -> LinkStates:
    """Link states of the requests.

    Parameters
    ----------
    traffic : Traffic
    router : Router
    link : {"measured", "logged", "table"}
        What the gateway had measured, the rest drawn from the cost table's distribution, as live
        requests and a calibration have them; what it decided with, which is typical where it had
        measured nothing; or all drawn.
    seed : int
        Seed of the draws.
    """
    check_choice(link, get_args(Link), "link")
    # A request's draw is its own: the same in every window, and the gateway's (seed 0).
    seed = seeds.check_seed(seed)
    own = (sha256(name.encode()).digest()[:8] for name in traffic.frame["id"])
    drawn = router.costs.sample_states_each([int.from_bytes(x, "little") ^ seed for x in own])
    if link == "table":
        return drawn
    filled = []
    for name in LINK:
        logged = traffic.frame[name].to_numpy().astype(np.float64)
        rest = getattr(drawn, name)
        if link == "measured":
            measured = traffic.frame["link_measured"].list.contains(name).fill_null(False)
            logged = np.where(measured.to_numpy(), logged, np.nan)
        elif np.isnan(logged).any():
            rest = getattr(_typical(router), name)
        filled.append(np.where(np.isnan(logged), rest, logged))
    rtt, up, down = filled
    return LinkStates(up, down, rtt)


def _typical(router: Router) -> LinkState:
    """The link as a gateway takes it to be before it has measured it."""
    calibration = router.calibration
    if calibration is None:
        raise Cr2Error("link: expected a calibrated router for link='logged', got one that is not")
    return router.two_stage(float(calibration["lams"][0])).typical_state


@dataclass(frozen=True, eq=False)
class Judged:
    """What the teacher says of requests, and what each model would cost.

    Attributes
    ----------
    accuracies : ndarray of float32, (N, M)
        Predicted probabilities of a right answer.
    n_output_tokens : ndarray of float64, (N, M)
        Predicted lengths.
    costs : ndarray of float32, (N, M)
    states : LinkStates
    """

    accuracies: npt.NDArray[np.float32]
    n_output_tokens: npt.NDArray[np.float64]
    costs: npt.NDArray[np.float32]
    states: LinkStates

    def prefers_edge(self, lams: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """The label r at each cost weight, (L, N)."""
        return np.asarray(_core.choice_margins(self.accuracies, self.costs, lams) < 0)


def judge(traffic: Traffic, router: Router, link: Link = "measured", seed: int = 0) -> Judged:
    """Ask the teacher about requests; parameters as of :func:`link_states`."""
    states = link_states(traffic, router, link, seed)
    lengths = router.predict_lengths(traffic.embeddings, traffic.n_input_tokens)
    costs = router.costs.cost(traffic.n_input_tokens, lengths, states)
    return Judged(router.accuracies(traffic.embeddings), lengths, costs, states)


def label(
    log: Log,
    router: Router,
    lam: float | None = None,
    *,
    logged_by: Router | Sequence[Router] = (),
    encoder: Any = None,
    link: Link = "measured",
    seed: int = 0,
) -> pl.DataFrame:
    """Label the requests of a log by the teacher, with predicted output lengths.

    Parameters
    ----------
    log : DecisionLog, path, pattern or sequence of paths
    router : Router
        Its teacher judges, its gate gives the margins.
    lam : float, optional
        The cost weight to judge at; by default each request's own.
    logged_by, encoder
        Earlier routers whose decisions the log holds, and the router's encoder, as of
        :func:`traffic_of`.
    link : {"measured", "logged", "table"}
        Link states, as of :func:`link_states`.
    seed : int
        Seed of link states that are drawn.

    Returns
    -------
    polars.DataFrame
        A row per routed request with an embedding (and with a text, where this router's features
        are made of it; a :class:`LogWarning` says how many lack one): ``id``, ``ts``, ``group``,
        ``lam``, ``margin`` (of `router` at that `lam`), ``prefers_edge`` (r), ``accepted`` (as it
        was logged) and ``false_acceptance``, r and accepted.

    Raises
    ------
    Cr2Error
        As of :func:`traffic_of`; a request without a cost weight where none is given.
    """
    polars = require("polars", "lab")
    traffic = traffic_of(log, router, logged_by, encoder)
    if lacking := traffic.left_out.get(NO_TEXT):
        warnings.warn(f"label: left out {lacking} requests {NO_TEXT}", LogWarning, stacklevel=2)
    lams = traffic.frame["lam"].to_numpy() if lam is None else np.full(len(traffic), float(lam))
    if np.isnan(lams).any():
        raise Cr2Error(
            f"log: expected a cost weight of every request, got none for "
            f"{int(np.isnan(lams).sum())}; pass lam="
        )
    judged = judge(traffic, router, link, seed)
    r = np.empty(len(traffic), bool)
    for value in np.unique(lams):
        rows = lams == value
        r[rows] = _core.choice_margins(judged.accuracies[rows], judged.costs[rows], [value])[0] < 0
    accepted = traffic.accepted
    labels: pl.DataFrame = polars.DataFrame(
        {
            "id": traffic.frame["id"],
            "ts": traffic.frame["ts"],
            "group": traffic.frame["group"],
            "lam": lams,
            "margin": margins_at(router, traffic.embeddings, lams, judged.states),
            "prefers_edge": r,
            "accepted": accepted,
            "false_acceptance": r & accepted,
        }
    )
    return labels
