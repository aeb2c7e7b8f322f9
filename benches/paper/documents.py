"""The documents' page of results: one table and one plot per pool, the losses first.

    python -m benches.paper.documents target/paper/*/results.json --out docs/explanation

In: ``results.json`` of runs. Out: ``results.md`` and ``results-<pool>.png``, whose every figure is
of these files; nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import matplotlib
import numpy as np

from benches.paper.figures import STYLES
from benches.paper.study import FULL, OURS
from benches.paper.summary import KNN, MIX
from benches.paper.world import MODES

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SEEN = "predicted"
REFERENCES = (FULL, "oracle")


def _cell(text):
    """Text of a table's cell or a heading: a name from the data is no markup."""
    text = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|$&!~])", r"\\\1", text[:400])


def compared(results, mode):
    """What CR² saves against each baseline and against the random mix."""
    found = results["modes"][mode]
    return found["savings"] | {MIX: found["over_mix"]}


def losses(results, mode):
    """Where a baseline is cheaper than CR² at a matched accuracy, by baseline, as list items."""
    lines = []
    for name, s in compared(results, mode).items():
        lost = [
            f"{t:.3f} by {-100 * v:.1f} % ({-100 * high:.1f} to {-100 * low:.1f})"
            for t, v, low, high in zip(
                results["targets"], s["by_target"], s["low"], s["high"], strict=True
            )
            if v < 0
        ]
        if lost:
            lines.append(f"- {_cell(name)}, at {len(lost)} of {len(s['by_target'])}: "
                         f"{', '.join(lost)}")  # fmt: skip
    return lines


def _table(results, mode):
    methods = results["modes"][mode]["methods"]
    ours = methods[OURS]["matched"]
    deployable = [n for n in methods if n not in REFERENCES]
    ordered = sorted(deployable, key=lambda n: np.mean(methods[n]["matched"]))
    lines = [
        "| cost at accuracy | " + " | ".join(f"{t:.3f}" for t in results["targets"]) + " | mean |",
        "|---" + "|---:" * (len(ours) + 1) + "|",
    ]
    for name in [*ordered, *(n for n in REFERENCES if n in methods)]:
        rival = name in compared(results, mode)
        costs = methods[name]["matched"]
        cells = [
            f"**{c:.3f}**" if rival and c < o else f"{c:.3f}"
            for c, o in zip(costs, ours, strict=True)
        ]
        label = f"**{_cell(name)}**" if name == OURS else _cell(name)
        lines.append(f"| {label} | {' | '.join(cells)} | {np.mean(costs):.3f} |")
    return lines


def _parts(results):
    """What CR² loses without a part, in both modes; no rows where nothing was left out."""
    lines = []
    for mode in MODES:
        found = results["modes"][mode]
        for name, s in found["part_savings"].items():
            cost = np.mean(found["ablations"][name]["matched"])
            lines.append(
                f"| {mode} | {_cell(name)} | {cost:.3f} | {100 * s['mean']:.1f} % "
                f"({100 * s['mean_low']:.1f} to {100 * s['mean_high']:.1f}) |"
            )
        whole = np.mean(found["methods"][OURS]["matched"])
        for name, entry in found["ablations"].items():
            if name not in found["part_savings"]:
                cost = np.mean(entry["matched"])
                lines.append(
                    f"| {mode} | {_cell(name)} | {cost:.3f} | {100 * (1 - whole / cost):.1f} % |"
                )
    head = ["| lengths | changed | mean cost | CR² is cheaper by |", "|---|---|---:|---:|"]
    return [*head, *lines] if lines else []


def _plot(results, path):
    savings = results["modes"][SEEN]["savings"]
    fig, ax = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    for k, (name, s) in enumerate(savings.items()):
        style = {"color": f"C{k}"} | STYLES.get(name, {})
        x = np.array(results["targets"])
        y, low, high = (100 * np.array(s[key]) for key in ("by_target", "low", "high"))
        # Side by side, so that no interval hides another.
        x = x + (k - len(savings) / 2) * 0.06 * (x[1] - x[0])
        ax.errorbar(x, y, [np.maximum(y - low, 0), np.maximum(high - y, 0)], elinewidth=0.6,
                    marker=".", label=name, **style)  # fmt: skip
    ax.axhline(0, color="black", lw=1)
    bottom, top = ax.get_ylim()
    ax.set_ylim(min(bottom, -2), max(top, 2))
    ax.axhspan(ax.get_ylim()[0], 0, color="C3", alpha=0.08, lw=0)
    ax.set(
        xlabel="accuracy, of the queries that some model answers",
        ylabel="what CR² saves, % (red: it loses)",
    )
    fig.legend(loc="outside lower center", ncols=4, fontsize=8)
    fig.savefig(path, dpi=100)
    plt.close(fig)


def _seeds(count):
    return "1 seed" if count == 1 else f"{count} seeds"


def _saved(results, mode):
    """One sentence: CR² against KNN, against the nearest baseline, and against full information."""
    found = results["modes"][mode]
    knn = found["savings"][KNN]
    nearest, least = min(found["savings"].items(), key=lambda item: item[1]["mean"])

    def percent(s):
        return f"{100 * s['mean']:.1f} % ({100 * s['mean_low']:.1f} to {100 * s['mean_high']:.1f})"

    kept = found["recovered"]  # None where full information saves nothing.
    return (
        f"{percent(knn)} against {_cell(KNN)} on average, {100 * max(knn['by_target']):.1f} % at "
        f"best; {percent(least)} against the nearest baseline, {_cell(nearest)}. "
        + ("Full information saves nothing over the unit model." if kept is None
           else f"Of what full information saves over the unit model, {100 * kept:.1f} % is kept.")
    )  # fmt: skip


def _pool(results, folder):
    data, run, queries = results["data"], results["run"], results["queries"]
    name = data["name"]
    image = f"results-{name}.png"
    _plot(results, folder / image)
    models = data["models"]
    lines = [
        f"## {_cell(name)}", "",
        f"Device: {_cell(models[0])}; edge: {', '.join(map(_cell, models[1:]))}; the unit of cost "
        f"is {_cell(data['reference'])}, of a cost table that is {_cell(data['costs'])}. "
        f"{queries['train']:,} training, {queries['calibration']:,} calibration and "
        f"{queries['test']:,} test queries, {_seeds(len(results['seeds']))}, "
        f"cr2fast {_cell(run['cr2fast'])}.", "",
        "### Where it loses", "",
    ]  # fmt: skip
    for mode in MODES:
        found = losses(results, mode)
        each = [v < 0 for s in compared(results, mode).values() for v in s["by_target"]]
        lost, count = sum(each), len(each)
        ending = ", at these accuracies by so much (95 % interval):" if found else "."
        lines += [f"With {mode} lengths a baseline is cheaper in {lost} of {count} comparisons"
                  + ending, "", *found, *([""] if found else [])]  # fmt: skip
    failed = [c for c in results["claims"] if not c["holds"]]
    if failed:
        lines += ["Aims that are not reached:", ""]
        lines += [
            f"- {_cell(c['mode'])} lengths, {_cell(c['claim'])}: aim {_cell(c['asked'])}, found "
            f"{_cell(c['found'])}"
            for c in failed
        ]
        lines.append("")
    lines += [
        "### What it saves", "",
        *(f"- With {mode} lengths: {_saved(results, mode)}" for mode in MODES), "",
        "### Cost at matched accuracy, predicted lengths", "",
        "The cheapest method first; in bold where a baseline is cheaper than CR². The last two "
        "rows are references that no device could run.", "", *_table(results, SEEN), "",
        f"![What CR² saves against each baseline on {_cell(name)}]({image})", "",
    ]  # fmt: skip
    parts = _parts(results)
    if parts:
        lines += [
            "### What each part is worth", "",
            "CR² with one thing changed: mean of the cost at the eight accuracies, and how much "
            "cheaper CR² is as chosen. The first rows leave out parts of the teacher, with the "
            "95 % interval of a paired bootstrap; the others change the gate's losses, the recipe "
            "or the rule that sets the thresholds. Only thresholds by CRC come with a promise, "
            "for each (λ, α) by itself and on the mean over calibration sets.", "",
            *parts, "",
        ]  # fmt: skip
    return lines


def write(documents, folder):
    """Write the page and its plots; returns the page's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    seeds = sorted({len(d["seeds"]) for d in documents})
    lines = [
        "# Results", "",
        "<!-- Written by `make paper-docs`; do not edit. -->", "",
        "Every router chooses on the same splits, embeddings and link states. Accuracy and cost "
        "are of the test queries that some model answers. A cost of 1 is that of sending every "
        "query to the unit model. A method that reaches an accuracy at none of its operating "
        "points pays 1. *Predicted lengths* is how a router is deployed; with *known lengths*, the "
        "paper's assumption, the edge sees the lengths of answers not yet written. A baseline "
        "chooses either by each model's mean cost (*constant*) or by each query's (*true costs*). "
        "*CR² (device-edge)* takes the configuration and the deferral path that were chosen on the "
        "training split; the rows *edge-only*, *inclusive* (the edge may send a query back, and "
        "the way there is paid) and *fallback* (all to the unit model) take one path each. "
        "Intervals are of a paired bootstrap over queries within seeds. `make paper` with "
        "`CR2FAST_DATA=DIR` runs the same on any folder.", "",
    ]  # fmt: skip
    if seeds[0] < 5:
        lines += [f"These figures are of {_seeds(seeds[0])} only.", ""]
    for results in documents:
        lines += _pool(results, folder)
    page = folder / "results.md"
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return page


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, help="results.json of each pool")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    args = parser.parse_args(argv)
    print("wrote", write([json.loads(p.read_text()) for p in args.results], args.out))


if __name__ == "__main__":
    main()
