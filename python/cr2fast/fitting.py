"""Fit a router: from a training split and a cost table to an uncalibrated :class:`Router`.

The training itself is in Rust (``cr2fast._core.fit``); here its options are checked and its
progress is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

import numpy as np

from cr2fast import _core
from cr2fast._core import CostTable, Cr2Error
from cr2fast._util import seeds
from cr2fast._util.checks import check_threads, check_type
from cr2fast._util.progress import Progress, epoch_bar
from cr2fast.data.table import RoutingTable
from cr2fast.router import Lengths, Router

Recipe = Literal["smoothed", "paper"]


def _config(
    options: dict[str, float], *, lam_range: tuple[float, float], **named: int | str
) -> str:
    """The fit's options as JSON, NumPy scalars as plain numbers."""
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in options.items()}
    bad = [k for k, v in plain.items() if not isinstance(v, (int, float)) or not np.isfinite(v)]
    if bad:
        raise Cr2Error(f"{bad[0]}: expected a finite number, got {options[bad[0]]!r}")
    if taken := sorted(plain.keys() & {*named, "lam_low", "lam_high"}):
        raise Cr2Error(f"{taken[0]}: expected it as lam_range, got it among the options")
    numbers = isinstance(lam_range, Sequence) and all(
        isinstance(v, (int, float)) for v in lam_range
    )
    if not numbers or len(lam_range) != 2 or not np.isfinite(lam_range).all():
        raise Cr2Error(f"lam_range: expected two numbers, lowest first, got {lam_range!r}")
    low, high = map(float, lam_range)
    return json.dumps(plain | named | {"lam_low": low, "lam_high": high})


def fit(
    train: RoutingTable,
    costs: CostTable,
    *,
    seed: int = 0,
    progress: bool | Progress = True,
    lengths: Lengths = "predicted",
    lam_range: tuple[float, float] = (0.1, 20.0),
    recipe: Recipe = "smoothed",
    teacher: Router | None = None,
    threads: int = 0,
    **options: float,
) -> Router:
    """Train teacher, length predictor and gate on the training split.

    Parameters
    ----------
    train : RoutingTable
        The training split. Part of it (`holdout`) chooses the checkpoints.
    costs : CostTable
        Same models in the same order. Null T0 and E0 are set to the reference model's means over
        this split, under link states of this seed.
    seed : int
        Everything random follows from it; run to run the weights are the same.
    progress : bool or callable
        A progress bar (with tqdm installed), or ``f(stage, epochs_done, epochs, loss)``.
    lengths : {"predicted", "known"}
        Output lengths that price the gate's targets: the predictor's, as at a deployed edge, or the
        recorded ones, the paper's assumption.
    lam_range : (float, float)
        Cost weights the gate learns.
    recipe : {"smoothed", "paper"}
        "smoothed": the networks learn a kernel smoother's view of the answers, on jittered copies
        of the queries, which orders queries better than the answers themselves do. "paper": they
        learn the answers, as the paper says. Either sets the hyperparameters' defaults.
    teacher : Router, optional
        Take its teacher and length predictor and fit a gate alone. It must have been fitted on the
        same models, embeddings and cost table; queries of its training count as this router's too.
    threads : int
        0: one a core.
    **options
        Hyperparameters: hidden, teacher_epochs, gate_epochs, batch, lr, cosine, weight_decay, clip,
        dropout, w_cls, w_rank, w_sign, w_margin, w_mono, mono_tolerance, huber, lams_per_step,
        holdout, ridge; smoothing, kernel_scale, kernel_ridge, copies, jitter; film. The record
        (``router.training["config"]``) has them all.

    Returns
    -------
    Router
        Not calibrated yet.

    Raises
    ------
    Cr2Error
        Other models in the cost table, options out of range, a loss that diverges.
    KeyboardInterrupt
        Ctrl-C, within a training step.
    """
    check_type(train, RoutingTable, "train")
    check_type(costs, CostTable, "costs")
    seed = seeds.check_seed(seed)
    if costs.models != list(train.models):
        raise Cr2Error(
            f"models of the cost table: expected {list(train.models)} in this order, got "
            f"{costs.models}; use costs.select(table.models) to choose and order them"
        )
    if recipe not in ("smoothed", "paper"):
        raise Cr2Error(f"recipe: expected 'smoothed' or 'paper', got {recipe!r}")
    if teacher is not None:
        costs = _costs_of(teacher, train, costs)
    if costs.normalizers is None:
        states = costs.sample_states(len(train), seed)
        costs = costs.normalized_on(train.n_input_tokens, train.n_output_tokens, states)
    config = _config(options, lam_range=lam_range, seed=seed, lengths=lengths, recipe=recipe)
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
        )
    return Router(core)


def _costs_of(teacher: Router, train: RoutingTable, costs: CostTable) -> CostTable:
    """The cost table of a teacher that fits this training split, or an error."""
    check_type(teacher, Router, "teacher")
    teacher._core.check_models("training split", list(train.models))
    teacher._core.check_encoder(*train.encoder)
    return teacher.costs_for(costs)
