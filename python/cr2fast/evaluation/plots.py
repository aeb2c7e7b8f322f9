"""Plots of an evaluation.

In: evaluations, and matplotlib axes. Out: curves on these axes; legends stand beside the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cr2fast.evaluation.queries import F64
from cr2fast.evaluation.result import Evaluation
from cr2fast.evaluation.units import UNITS, Unit, big_model

_BESIDE = {"loc": "outside lower center", "fontsize": 8}


def pareto(fig: Any, evaluations: Mapping[str, Evaluation]) -> None:
    """Accuracy against cost in each unit that the cost table knows, side by side.

    Every operating point is drawn and none is picked: a front chosen on the test split would look
    better than what new queries get.
    """
    first = next(iter(evaluations.values()))
    units = [u for u in UNITS if u.known(first)]
    columns = min(2, len(units))
    rows = -(-len(units) // columns)
    fig.set_size_inches(6.2 * columns, 4.3 * rows + 0.9)
    axes = np.atleast_1d(fig.subplots(rows, columns)).ravel()
    for ax, unit in zip(axes, units, strict=False):
        _accuracy_against(ax, unit, evaluations, first)
    for ax in axes[len(units) :]:
        ax.set_axis_off()
    axes[0].set_ylabel("accuracy, all test queries")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, ncols=3, **_BESIDE)
    fig.suptitle("Dots: operating points (λ, α); a line joins those of one α", fontsize=10)


def _accuracy_against(
    ax: Any, unit: Unit, evaluations: Mapping[str, Evaluation], first: Evaluation
) -> None:
    for k, (mode, e) in enumerate(evaluations.items()):
        x = unit.scale * getattr(e, unit.figure)
        for j in range(len(e.alphas)):
            ax.plot(x[:, j], e.accuracy[:, j], color=f"C{k}", lw=0.8, alpha=0.5, marker=".", ms=4,
                    label=f"CR2 device-edge, {mode}" if j == 0 else None)  # fmt: skip
    for name, style, note in (
        ("full_information", "--", "full information (no gate)"),
        ("oracle", ":", "oracle (sees the answers)"),
    ):
        points = first.baselines[name]
        cost, accuracy = unit.scale * np.array(points[unit.figure]), np.array(points["accuracy"])
        order = np.lexsort((accuracy, cost))
        ax.plot(cost[order], accuracy[order], style, color="grey", label=note)
    alone = first.baselines["alone"]
    cost, accuracy = unit.scale * np.array(alone[unit.figure]), np.array(alone["accuracy"])
    ends = [0, big_model(first)]
    ax.plot(cost[ends], accuracy[ends], "-.", color="grey", lw=0.8, label="random mix")
    ax.scatter(cost, accuracy, marker="x", color="black", zorder=3, label="each model alone")
    _name(ax, first.models, cost, accuracy)
    ax.set_xlabel(unit.label)


def _name(ax: Any, models: tuple[str, ...], cost: F64, accuracy: F64) -> None:
    """Names beside a few single models: cheap ones below, where no curve is, dear ones above."""
    if len(models) > 12:
        return
    middle = (np.nanmin(cost) + np.nanmax(cost)) / 2
    for model, x, y in zip(models, cost.tolist(), accuracy.tolist(), strict=True):
        left = x <= middle
        # A name is no formula: a dollar sign would start one.
        text = (model if len(model) <= 28 else f"{model[:27]}…").replace("$", r"\$")
        ax.annotate(
            text, (x, y), xytext=(6, -5) if left else (4, 7), textcoords="offset points",
            fontsize=7, va="top" if left else "bottom", ha="left" if left else "right",
        )  # fmt: skip


def risk(fig: Any, e: Evaluation) -> None:
    """Realised risk against the cost weight, with its interval, one panel per risk level."""
    columns = min(3, len(e.alphas))
    rows = -(-len(e.alphas) // columns)
    fig.set_size_inches(3.6 * columns + 0.6, 2.5 * rows + 1)
    axes = np.atleast_1d(fig.subplots(rows, columns)).ravel()
    for ax in axes[len(e.alphas) :]:
        ax.set_axis_off()
    for j, alpha in enumerate(e.alphas):
        ax = axes[j]
        low, high = e.risk_interval[:, j].T
        ax.fill_between(e.lams, low, high, alpha=0.2, color="C0", lw=0, label="95 % interval")
        ax.plot(e.lams, e.risk[:, j], marker=".", color="C0", label="realised risk")
        ax.axhline(alpha, color="C3", ls="--", lw=1, label="α")
        ax.set(ylim=(0, None), xscale=_scale(e))
        ax.set_title(f"α = {alpha:g}", fontsize=9)
        ax.tick_params(labelsize=7)
        ax.set_xlabel("cost weight λ", fontsize=8)
    fig.supylabel("false-acceptance rate", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, ncols=3, **_BESIDE)
    fig.suptitle(
        "α bounds the risk on average over calibration sets, at each λ by itself,\n"
        "while query mix and link stay as they were",
        fontsize=9,
    )


def local_rate(fig: Any, e: Evaluation) -> None:
    """Fraction kept on the device against the cost weight, one curve per risk level."""
    ax = fig.subplots()
    for j, alpha in enumerate(e.alphas):
        ax.plot(e.lams, e.local_rate[:, j], marker=".", label=f"α = {alpha:g}")
    ax.set(
        xscale=_scale(e), xlabel="cost weight λ", ylabel="fraction kept on the device",
        ylim=(-0.02, 1.02),
    )  # fmt: skip
    fig.legend(ncols=min(5, len(e.alphas)), **_BESIDE)


def _scale(e: Evaluation) -> str:
    return "log" if e.lams.min() > 0 else "linear"
