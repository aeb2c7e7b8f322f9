"""Plots of an evaluation.

In: evaluations, and matplotlib axes. Out: curves on these axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cr2fast.evaluation.result import Evaluation


def pareto(ax: Any, evaluations: Mapping[str, Evaluation]) -> None:
    """Accuracy against cost: operating points, their upper hull, and the baselines."""
    for mode, e in evaluations.items():
        (line,) = ax.plot(*e.pareto().T, marker="o", ms=3, label=f"CR2 device-edge, {mode}")
        ax.scatter(e.cost, e.accuracy, s=5, alpha=0.25, color=line.get_color())
    first = next(iter(evaluations.values()))
    for name, style in (("full_information", "--"), ("oracle", ":")):
        points = first.baselines[name]
        label = name.replace("_", " ") + (
            " (uses the answers)" if name == "oracle" else " (no gate)"
        )
        order = np.argsort(points["cost"])
        ax.plot(
            np.array(points["cost"])[order], np.array(points["accuracy"])[order], style,
            color="grey", label=label,
        )  # fmt: skip
    alone = first.baselines["alone"]
    ax.scatter(
        alone["cost"], alone["accuracy"], marker="x", color="black", label="each model alone"
    )
    ax.set(
        xlabel="mean normalised cost", ylabel="accuracy, all test queries",
        title="Dots: operating points (λ, α). Lines of CR2: their upper hull",
    )  # fmt: skip
    ax.title.set_fontsize(9)
    ax.legend(fontsize=8)


def risk(ax: Any, e: Evaluation) -> None:
    """Realised risk against the cost weight, with its interval, one curve per risk level."""
    for j, alpha in enumerate(e.alphas):
        low, high = e.risk_interval[:, j].T
        (line,) = ax.plot(e.lams, e.risk[:, j], marker=".", label=f"alpha = {alpha:g}")
        ax.fill_between(e.lams, low, high, alpha=0.15, color=line.get_color(), lw=0)
        ax.axhline(alpha, color=line.get_color(), ls="--", lw=0.8)
    ax.set(
        xscale="log", xlabel="cost weight λ", ylabel="false-acceptance rate",
        title="Realised risk (95 % intervals). Dashed: α, which bounds it on average over\n"
        "calibration sets, at each λ by itself, while query mix and link stay as they were",
    )  # fmt: skip
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.set_ylim(bottom=0)
    ax.title.set_fontsize(9)
    ax.legend(fontsize=8)


def local_rate(ax: Any, e: Evaluation) -> None:
    """Fraction kept on the device against the cost weight, one curve per risk level."""
    for j, alpha in enumerate(e.alphas):
        ax.plot(e.lams, e.local_rate[:, j], marker=".", label=f"alpha = {alpha:g}")
    ax.set(
        xscale="log", xlabel="cost weight λ", ylabel="fraction kept on the device", ylim=(0, 1.02)
    )
    ax.legend(fontsize=8)
