"""Figures 3 to 9. In: the results of all seeds. Out: PNG files, by name."""

from __future__ import annotations

import matplotlib
import numpy as np

from benches.paper import cr2
from benches.paper.study import FULL, OURS
from benches.paper.world import MODES

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STYLES = {
    OURS: {"color": "C0", "lw": 2.4},
    FULL: {"color": "C0", "ls": "--"},
    "KNN, constant": {"color": "C1"},
    "KNN, true costs": {"color": "C1", "ls": "--"},
    "MLP, constant": {"color": "C2"},
    "MLP, true costs": {"color": "C2", "ls": "--"},
    "EmbedLLM, constant": {"color": "C3"},
    "EmbedLLM, true costs": {"color": "C3", "ls": "--"},
    "LLMRank, constant": {"color": "C4"},
    "LLMRank, true costs": {"color": "C4", "ls": "--"},
    "random mix": {"color": "grey", "ls": ":"},
}


def _pareto(results, axes):
    for ax, mode in zip(axes, MODES, strict=True):
        for name, style in STYLES.items():
            curve = results["modes"][mode]["methods"][name]["pareto"]
            x, y = np.array(curve["cost"]), np.array(curve["accuracy"])
            ax.plot(x, y, label=name, **style)
            if name == OURS:
                half = np.array(curve["half"], dtype=float)
                ax.fill_between(x, y - half, y + half, color=style["color"], alpha=0.15, lw=0)
        ax.set(title=f"{mode} lengths", xlabel="mean normalised cost", ylabel="accuracy")


def _bars(results, axes):
    names = [n for n in STYLES if n != "random mix"]
    for ax, mode in zip(axes, MODES, strict=True):
        width = 0.8 / len(names)
        for i, name in enumerate(names):
            entry = results["modes"][mode]["methods"][name]
            at = np.arange(len(results["targets"])) + (i - len(names) / 2) * width
            style = STYLES[name]
            ax.bar(
                at, entry["matched"], width, yerr=np.array(entry["matched_half"], dtype=float),
                color=style["color"], alpha=0.5 if style.get("ls") else 1, label=name,
                error_kw={"lw": 0.6},
            )  # fmt: skip
        ax.set_xticks(range(len(results["targets"])), [f"{t:.3f}" for t in results["targets"]])
        ax.set(title=f"{mode} lengths", xlabel="accuracy (mean target over seeds)",
               ylabel="least cost that reaches it")  # fmt: skip


def _rules(results, axes):
    for ax, mode in zip(axes, MODES, strict=True):
        m = results["modes"][mode]
        ax.plot(results["targets"], m["methods"][OURS]["matched"], marker="o", label="CRC")
        for rule in ("empirical", "fixed local rate", "sign of the margin"):
            entry = m["ablations"][rule]
            label = f"{rule} (highest risk {entry['risk_highest']:.2f})"
            ax.plot(results["targets"], entry["matched"], marker=".", label=label)
        ax.set(title=f"{mode} lengths", xlabel="accuracy", ylabel="least cost that reaches it")
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _against_lam(results, axes, key, ylabel, bands=None):
    for ax, mode in zip(axes, MODES, strict=True):
        gate = results["modes"][mode]["gate"]
        values = np.array(gate[key])
        for j, alpha in enumerate(gate["alphas"]):
            (line,) = ax.plot(gate["lams"], values[:, j], label=f"α = {alpha:g}")
            if bands:
                half = np.array(gate[bands], dtype=float)[:, j]
                ax.fill_between(
                    gate["lams"], np.maximum(values[:, j] - half, 0), values[:, j] + half,
                    color=line.get_color(), alpha=0.15, lw=0,
                )  # fmt: skip
                ax.axhline(alpha, color=line.get_color(), ls="--", lw=0.7)
        ax.set(title=f"{mode} lengths", xscale="log", xlabel="λ", ylabel=ylabel)
        if bands:
            ax.set_yscale("symlog", linthresh=1e-3)
            ax.set_ylim(bottom=0)


def _branches(results, axes):
    names = (OURS, *(f"CR² ({path})" for path in cr2.PATHS), FULL)
    for ax, mode in zip(axes, MODES, strict=True):
        for name in names:
            entry = results["modes"][mode]["methods"][name]
            ax.plot(results["targets"], entry["matched"], marker=".", label=name)
        ax.set(title=f"{mode} lengths", xlabel="accuracy", ylabel="least cost that reaches it")


def _errors(results, axes):
    for ax, mode in zip(axes, MODES, strict=True):
        gate = results["modes"][mode]["gate"]
        cost, needless = np.array(gate["cost"]), np.array(gate["needless"])
        for j, alpha in enumerate(gate["alphas"]):
            order = np.argsort(cost[:, j])
            (line,) = ax.plot(cost[order, j], needless[order, j], label=f"needless, α = {alpha:g}")
            risk = np.array(gate["risk"])[order, j]
            ax.plot(cost[order, j], risk, color=line.get_color(), ls=":")
        ax.set(
            title=f"{mode} lengths (dotted: false acceptances)",
            xlabel="mean normalised cost, all queries",
            ylabel="fraction of queries",
        )


FIGURES = {
    "figure3-pareto": ("Accuracy against cost: hulls, mean over seeds", _pareto),
    "figure4-costs": ("Cost at eight matched accuracies", _bars),
    "figure5-rules": ("Threshold rules: what each costs, and the risk it takes", _rules),
    "figure6-risk": (
        "False-acceptance rate (mean over seeds, 95 % interval); dashed: α",
        lambda r, axes: _against_lam(r, axes, "risk", "false-acceptance rate", "risk_half"),
    ),
    "figure7-local": (
        "Queries kept on the device",
        lambda r, axes: _against_lam(r, axes, "local_rate", "local rate"),
    ),
    "figure8-branches": ("Where deferred queries may go", _branches),
    "figure9-errors": ("What the gate gets wrong", _errors),
}


def draw(results, folder):
    """Write all figures; returns {name: (title, path)}."""
    out = {}
    for name, (title, plot) in FIGURES.items():
        fig, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
        plot(results, axes)
        if axes[0].get_legend() is None:
            handles, labels = axes[0].get_legend_handles_labels()
            fig.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
        fig.suptitle(title, fontsize=11)
        path = folder / f"{name}.png"
        fig.savefig(path, dpi=110)
        plt.close(fig)
        out[name] = (title, path)
    return out
