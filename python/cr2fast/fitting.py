"""Fit a router: from a training split and a cost table to an uncalibrated :class:`Router`.

The training itself is in Rust (``cr2fast._core.fit``); here its options are checked and its
progress is drawn. Equation numbers are those of arXiv 2605.12001.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args

import numpy as np

from cr2fast import _core
from cr2fast import features as feature_columns
from cr2fast._core import CostTable, Cr2Error
from cr2fast._util import seeds
from cr2fast._util.checks import (
    check_choice,
    check_threads,
    check_type,
    check_unmasked,
    real,
    shown,
    whole,
)
from cr2fast._util.progress import Progress, Shows, epoch_bar
from cr2fast.calibration.typicality import minor_components
from cr2fast.data.content import warn_if_alike
from cr2fast.data.table import RoutingTable
from cr2fast.fitted import Lengths
from cr2fast.router import Router

Recipe = Literal["smoothed", "paper"]


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Hyperparameters of a fit; one that is None has its recipe's default.

    Where the two recipes differ, the default of ``recipe="paper"`` stands in parentheses. The paper
    prints neither the weights of its losses nor how it chooses a checkpoint: those defaults are
    ours in both recipes. What a fit used is in ``router.training["config"]``.

    Attributes
    ----------
    hidden : int
        Hidden units of each teacher head (equations 36-45) and of the gate (equations 49-55).
        Default 256.
    teacher_epochs : int
        Passes over the training split for the teacher. Default 40 (20).
    gate_epochs : int
        Passes over the training split for the gate. Default 40 (20).
    batch : int
        Queries per step. Default 256.
    lr : float
        Learning rate of AdamW; its highest value where `cosine` is true. Default 0.002 (0.0003).
    cosine : bool
        Whether the rate rises over a twentieth of the steps and then falls along a half cosine to
        a hundredth; else it is constant. Default True (False).
    weight_decay : float
        Decoupled weight decay of AdamW. Default 0.01.
    clip : float
        Largest global norm of the gradient. Default 1.0.
    dropout : float
        Probability of dropping a hidden unit, in [0, 1). Default 0.0 (0.1).
    w_cls : float
        Weight of the cross-entropy in the teacher's loss (equations 36-45). Default 1.0.
    w_rank : float
        Weight of the pairwise ranking in the teacher's loss (equations 36-45). Default 0.0 (0.5).
    w_sign : float
        Weight of the cross-entropy on the margin's sign in the gate's loss (equations 49-55).
        Default 1.0.
    w_margin : float
        Weight of the Huber regression on the margin in the gate's loss. Default 1.0.
    w_mono : float
        Weight of the penalty on margins that fall as the cost weight grows. Default 1.0.
    mono_tolerance : float
        Fraction of pairs of a query and an edge model, 0 to 1, in which the local model may cost
        more; above it, `w_mono` becomes 0. Default 0.03.
    huber : float
        Residual at which the Huber loss turns from a square to a line. Default 0.1.
    lams_per_step : int
        Cost weights sampled per step of the gate, log-uniform in ``lam_range``. Default 8.
    holdout : float
        Fraction of the training split, in (0, 0.5], that chooses the checkpoints. Default 0.1
        (0.15).
    ridge : float
        Ridge penalty of the length predictor. Default 1.0.
    smoothing : bool
        Whether the networks learn a kernel smoother's view of the answers; else they learn the
        answers. Default True (False).
    kernel_scale : float
        The s of the smoother's kernel exp(-s |x - x'| / median distance). Default 4.0.
    kernel_ridge : float
        Ridge penalty of the smoother. Default 2.0.
    smoother_share : float
        Share of the kernel smoother in the teacher's probabilities, 0 to 1, beside the network's;
        only with `smoothing`. Its centres, training queries, are kept in the artifact. Default 0.0.
    smoother_centres : int
        Most centres of the smoother in the teacher. Default 8192.
    copies : int
        Most jittered copies of the training queries to learn on, one per epoch in turn; only with
        `smoothing`. Default 8.
    rows_per_epoch : int
        Most training queries that an epoch goes through. Of more, each of the copies takes a part
        of its own, the smoother has an eighth of this many centres and as many held-out queries
        choose the checkpoints, so that neither time nor memory grows with the split beyond
        ``copies * rows_per_epoch`` queries. Default 65536.
    jitter : float
        Standard deviation of the jitter, as a multiple of the standardised embedding's; only with
        `smoothing`. Default 0.7.
    feature_weight : float
        Length of the features' part of a row, as a multiple of the embedding's; 0 for the one of
        0.5, 1, 1.5 and 2 that cross-validation on the training split finds best; only with
        ``features``. Default 1.0.
    film : bool
        Whether the cost weight scales the gate's hidden units as well as shifting them (FiLM,
        equations 49-55). Default True.
    link_features : bool
        Whether the gate also sees the link: logarithms of round trip and rates, standardised over
        training's link states. Only with a cost table whose link varies. Where the state is not
        given with a query, the mean of training's links stands for it. Default False.

    Raises
    ------
    Cr2Error
        A value of another type, NaN or infinity. Ranges are checked by :func:`cr2fast.fit`.
    """

    hidden: int | None = None
    teacher_epochs: int | None = None
    gate_epochs: int | None = None
    batch: int | None = None
    lr: float | None = None
    cosine: bool | None = None
    weight_decay: float | None = None
    clip: float | None = None
    dropout: float | None = None
    w_cls: float | None = None
    w_rank: float | None = None
    w_sign: float | None = None
    w_margin: float | None = None
    w_mono: float | None = None
    mono_tolerance: float | None = None
    huber: float | None = None
    lams_per_step: int | None = None
    holdout: float | None = None
    ridge: float | None = None
    smoothing: bool | None = None
    kernel_scale: float | None = None
    kernel_ridge: float | None = None
    smoother_share: float | None = None
    smoother_centres: int | None = None
    copies: int | None = None
    rows_per_epoch: int | None = None
    jitter: float | None = None
    feature_weight: float | None = None
    film: bool | None = None
    link_features: bool | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None:
                kind = str(f.type).partition(" ")[0]
                object.__setattr__(self, f.name, _plain(f.name, value, kind))

    def given(self) -> dict[str, Any]:
        """The options that are not left to the recipe, by name."""
        return {k: v for k, v in asdict(self).items() if v is not None}


def _plain(name: str, value: Any, kind: str) -> bool | int | float:
    """`value` as a plain bool, int or float, or a Cr2Error that names the option."""
    if kind == "bool":
        if not isinstance(value, (bool, np.bool_)):
            raise Cr2Error(f"{name}: expected True or False, got {shown(value)}")
        return bool(value)
    if kind == "int":
        return whole(value, name, "a whole number")
    found = real(value, name, "a finite number")
    if not np.isfinite(found):
        raise Cr2Error(f"{name}: expected a finite number, got {shown(value)}")
    return found


def _options(options: FitOptions | None, keywords: dict[str, Any]) -> FitOptions:
    """The options of the call, keywords and all."""
    check_type(options := options or FitOptions(), FitOptions, "options")
    known = [f.name for f in fields(FitOptions)]
    for name in keywords:
        if name in ("lam_low", "lam_high"):
            raise Cr2Error(f"{name}: expected lam_range=(low, high) in its place")
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise Cr2Error(
                f"{name[:60]}: no option of a fit has this name; the nearest is {near}; "
                f"cr2fast.FitOptions describes them all"
            )
        if getattr(options, name) is not None:
            raise Cr2Error(f"{name}: expected it once, got it among options and as a keyword")
    return replace(options, **keywords)


def _range(lam_range: object) -> dict[str, float]:
    """Lowest and highest cost weight to learn; none where the data are to tell."""
    if isinstance(lam_range, str) and lam_range == "auto":
        return {}
    expected = "two positive numbers, lowest first, or 'auto'"
    check_unmasked(lam_range, "lam_range")
    if not isinstance(lam_range, (Sequence, np.ndarray)) or len(lam_range) != 2:
        raise Cr2Error(f"lam_range: expected {expected}, got {shown(lam_range)}")
    low, high = (real(v, "lam_range", expected) for v in lam_range)
    if not 0 < low < high < np.inf:
        raise Cr2Error(f"lam_range: expected {expected}, got {shown(lam_range)}")
    return {"lam_low": low, "lam_high": high}


def fit(
    train: RoutingTable,
    costs: CostTable,
    *,
    seed: int = 0,
    progress: Shows | Progress = True,
    lengths: Lengths = "predicted",
    lam_range: tuple[float, float] | Literal["auto"] = "auto",
    recipe: Recipe = "smoothed",
    features: bool | str | Sequence[str] | None = None,
    teacher: Router | None = None,
    threads: int = 0,
    options: FitOptions | None = None,
    **hyperparameters: float | None,
) -> Router:
    """Train teacher, length predictor and gate on the training split.

    Parameters
    ----------
    train : RoutingTable
        The training split. Part of it (`holdout`) chooses the checkpoints.
    costs : CostTable
        Same models in the same order. Null T0 and E0 are set to the unit model's means over this
        split, under link states of this seed.
    seed : int
        Everything random follows from it; run to run the parameters are the same.
    progress : bool, "lines" or callable
        A progress bar (with tqdm installed), or ``f(stage, epochs_done, epochs, loss)``.
    lengths : {"predicted", "known"}
        Output lengths that price the gate's targets: the predictor's, as at a deployed edge, or the
        recorded ones, the paper's assumption.
    lam_range : "auto" or (float, float)
        Cost weights the gate learns, and calibration's default grid spans. "auto": from where 2 %
        of the full-information choices on the training split are the local model, by the teacher,
        to where 98 % are; and from where choices start to move to cheaper edge models, where many
        do so before any becomes local. What was found, and what stood in the way where the rate
        never comes to 2 % or to 98 %, is in ``router.training["lam_range"]``. The paper's range is
        (0.1, 20).
    recipe : {"smoothed", "paper"}
        "smoothed": the networks learn a kernel smoother's view of the answers, on jittered copies
        of the queries, which orders queries better than the answers themselves do. "paper": they
        learn the answers, as the paper says. Either sets the hyperparameters' defaults.
    features : bool, str or sequence of str, optional
        What gate, teacher and length predictor read beside the embedding: True or "text" for the
        features of the text (:func:`cr2fast.text_features`; the table needs a column `text`), names
        of numeric columns of the table for your own, or both; False for nothing. By default the
        text where every query of the table has one and the table names its encoder, since such a
        router can be asked by text; nothing of a table of embeddings from an unknown encoder, nor
        with ``recipe="paper"``; with a `teacher`, what it looks at. Kept in the artifact; every
        text that is routed is looked at the same way, and an embedding without its text is refused
        (:meth:`Router.inputs`).
    teacher : Router, optional
        Take its teacher and length predictor and fit only a gate. It must have been fitted on the
        same models, embeddings and cost table; queries of its training count as this router's too.
    threads : int
        0: one per core.
    options : FitOptions, optional
        Hyperparameters.
    **hyperparameters
        Fields of :class:`FitOptions` by name: ``fit(train, costs, hidden=128)`` is short for
        ``fit(train, costs, options=FitOptions(hidden=128))``.

    Returns
    -------
    Router
        Not calibrated yet.

    Raises
    ------
    Cr2Error
        Other models in the cost table, an option that is unknown or out of range, a loss that
        diverges.
    TypeError
        A table, costs, teacher or options of another type.
    KeyboardInterrupt
        Ctrl-C, within a training step.
    """
    check_type(train, RoutingTable, "train")
    check_type(costs, CostTable, "costs")
    warn_if_alike(train.embeddings, "train")
    seed = seeds.check_seed(seed)
    if costs.models != list(train.models):
        raise Cr2Error(
            f"models of the cost table: expected {list(train.models)} in this order, got "
            f"{costs.models}; use costs.select(table.models) to choose and order them"
        )
    check_choice(lengths, get_args(Lengths), "lengths")
    check_choice(recipe, get_args(Recipe), "recipe")
    if teacher is not None:
        costs = _costs_of(teacher, train, costs)
    if costs.normalizers is None:
        states = costs.sample_states(len(train), seed)
        costs = costs.normalized_on(train.n_input_tokens, train.n_output_tokens, states)
    text, columns = _looked_at(features, train, recipe, teacher)
    values = feature_columns.of_table(train, text, columns) if text or columns else None
    chosen = _options(options, hyperparameters).given()
    config = json.dumps(
        chosen | _range(lam_range) | {"seed": seed, "lengths": lengths, "recipe": recipe}
    )
    threads = check_threads(threads)
    with epoch_bar(progress) as call:
        core = _core.fit(
            train.embeddings,
            train.correct,
            train.n_input_tokens,
            train.n_output_tokens,
            costs,
            config,
            (train.encoder.id, train.encoder.sha256),
            list(train.query_ids),
            None if teacher is None else teacher._core,
            threads,
            call,
            train.content.kept,
            None if values is None else (text, columns, values),
        )
    rows = Router(core).inputs(train)
    return Router(core.with_typicality(*minor_components(rows)))


def _looked_at(
    features: bool | str | Sequence[str] | None,
    train: RoutingTable,
    recipe: Recipe,
    teacher: Router | None,
) -> tuple[bool, list[str]]:
    """Whether features of the text are looked at, and which columns of the table are."""
    if features is not None:
        return feature_columns.asked(features)
    if teacher is not None:
        kind = teacher.features
        return (False, []) if kind is None else (kind["text"], kind["columns"])
    return recipe != "paper" and feature_columns.by_default(train), []


def _costs_of(teacher: Router, train: RoutingTable, costs: CostTable) -> CostTable:
    """The cost table of a teacher that fits this training split, or an error."""
    check_type(teacher, Router, "teacher")
    teacher._core.check_models("training split", list(train.models))
    teacher._core.check_encoder(*train.encoder)
    return teacher.costs_for(costs)
