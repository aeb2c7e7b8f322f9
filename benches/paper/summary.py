"""Over seeds: means, intervals, savings, and what was claimed against what was found.

In: documents and bootstrap replicates of the seeds. Out: one dictionary, and its text.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student

from benches.paper import cr2, metrics
from benches.paper.study import FULL, OURS
from benches.paper.world import MODES
from cr2fast.evaluation.intervals import binomial_interval

COMPETITORS = ("KNN", "MLP", "EmbedLLM", "LLMRank")
KNN = "KNN, constant"
MIX = "random mix"
FREE = 1e-3


def half_width(values):
    """Half of the 95 % interval of a mean over seeds (axis 0); NaN for one seed."""
    n = len(values)
    if n < 2:
        return np.full_like(values[0], np.nan)
    return student.ppf(0.975, n - 1) * np.std(values, axis=0, ddof=1) / np.sqrt(n)


def _known(value):
    """A number of a document, NaN where it has null."""
    return np.nan if value is None else value


def _share(part, whole):
    """Part of a whole, NaN of nothing."""
    return float(part / whole) if whole else float("nan")


def _stack(documents, mode, kind, name, key):
    return np.array([d["modes"][mode][kind][name][key] for d in documents], dtype=float)


def _saved(ours, theirs):
    """What part of their cost we save; what is free counts as a thousandth of the unit model."""
    return 1 - np.maximum(ours, FREE) / np.maximum(theirs, FREE)


def _saving(documents, replicates, mode, other, kind="methods"):
    """1 - ours/theirs at each target: means over seeds, and the bootstrap's 95 % interval.

    Queries are resampled within each seed, the same for both methods; seeds are then averaged. Test
    splits of different seeds share queries, so the interval is somewhat narrow.
    """
    by_seed = [
        _stack(documents, mode, of, name, "matched")
        for of, name in (("methods", OURS), (kind, other))
    ]
    ours, theirs = (costs.mean(axis=0) for costs in by_seed)
    drawn = [np.mean([r[f"{mode}|{name}"] for r in replicates], axis=0) for name in (OURS, other)]
    ratio, saved = _saved(*drawn), _saved(ours, theirs)
    return {
        "by_target": saved,
        "low": np.quantile(ratio, 0.025, axis=0),
        "high": np.quantile(ratio, 0.975, axis=0),
        "mean": float(saved.mean()),
        "mean_low": float(np.quantile(ratio.mean(axis=1), 0.025)),
        "mean_high": float(np.quantile(ratio.mean(axis=1), 0.975)),
        "share_of_resamples_cheaper": (ratio > 0).mean(axis=0),
        "by_seed": _saved(*by_seed).mean(axis=1),
    }


def _gate(documents, mode):
    gates = [d["modes"][mode]["gate"] for d in documents]
    first = gates[0]
    false = np.array([g["false_acceptances"] for g in gates])
    n = sum(g["n"] for g in gates)
    counts = np.rint(false * np.array([g["n"] for g in gates])[:, None, None]).sum(axis=0)
    low = np.array([[binomial_interval(int(k), n)[0] for k in row] for row in counts])
    half = half_width(false)
    alphas = np.array(first["alphas"])
    return {
        "lams": first["lams"],
        "alphas": first["alphas"],
        "risk": false.mean(axis=0),
        "risk_half": half,
        "risk_highest": float(false.max(axis=(1, 2)).mean()),
        "pooled_interval_reaches_alpha": low <= alphas,
        "mean_at_most_alpha": false.mean(axis=0) <= alphas,
        "seed_interval_reaches_alpha": np.nan_to_num(false.mean(axis=0) - half, nan=-1) <= alphas,
        "needless": np.mean([g["needless_deferrals"] for g in gates], axis=0),
        "local_rate": np.mean([g["local_rate"] for g in gates], axis=0),
        "cost": np.mean([np.reshape(g["cost"], false.shape[1:]) for g in gates], axis=0),
    }


def over_seeds(documents, replicates):
    """Everything the report shows."""
    out = {
        "seeds": [d["seed"] for d in documents],
        "queries": documents[0]["queries"],
        "bootstrap": len(next(iter(replicates[0].values()))),
        "area_range": metrics.AREA,
        "targets": np.mean([d["targets"] for d in documents], axis=0),
        "alone": {
            key: np.mean(np.array([d["alone"][key] for d in documents], dtype=float), axis=0)
            for key in documents[0]["alone"]
        },
        "test_split": [d["test_split"] for d in documents],
        "chosen": [d["chosen"] for d in documents],
        "choosing": [d["choosing"] for d in documents],
        "modes": {},
    }
    for mode in MODES:
        first = documents[0]["modes"][mode]
        methods, ablations = {}, {}
        for kind, target in (("methods", methods), ("ablations", ablations)):
            for name in first[kind]:
                entry = {}
                for key in ("matched", "hull", "area"):
                    values = _stack(documents, mode, kind, name, key)
                    entry[key], entry[f"{key}_half"] = values.mean(axis=0), half_width(values)
                target[name] = entry
        grid = np.linspace(*metrics.AREA, 76)
        for name, entry in methods.items():
            curves = []
            for d in documents:
                points = d["modes"][mode]["methods"][name]
                alone = d["alone"]
                ends = [(alone["accuracy"][m], alone["cost"][m]) for m in (0, d["reference"])]
                hull = metrics.hull_with(
                    np.array(points["accuracy"]), np.array(points["cost"]), ends
                )
                curves.append(np.interp(grid, hull[:, 0], hull[:, 1]))
            entry["pareto"] = {"cost": grid, "accuracy": np.mean(curves, axis=0),
                               "half": half_width(np.array(curves))}  # fmt: skip
            own = [d["modes"][mode]["methods"][name] for d in documents]
            each = [o["by_category"] for o in own]
            entry["by_category"] = {
                # A category that some seed's test split lacks is a mean over the others.
                level: {c: float(np.mean([v[level][c] for v in each if c in v[level]]))
                        for c in dict.fromkeys(c for v in each for c in v[level])}
                for level in each[0]
            }  # fmt: skip
            entry["units"] = [
                {unit: {k: float(np.mean([_known(o["matched_units"][t][unit][k]) for o in own]))
                        for k in ("mean", "p50", "p95")}
                 for unit in ("latency_s", "energy_j", "usd")}
                for t in range(metrics.TARGETS)
            ]  # fmt: skip
        for name, entry in ablations.items():
            for key in ("risk_highest", "local_rate"):
                entry[key] = float(
                    np.mean([d["modes"][mode]["ablations"][name][key] for d in documents])
                )
            if "risk_by_alpha" in first["ablations"][name]:
                entry["risk_by_alpha"] = _stack(
                    documents, mode, "ablations", name, "risk_by_alpha"
                ).mean(axis=0)
        rivals = [m for m in methods if m.startswith(COMPETITORS)]
        out["modes"][mode] = {
            "methods": methods,
            "ablations": ablations,
            "gate": _gate(documents, mode),
            "savings": {m: _saving(documents, replicates, mode, m) for m in rivals},
            "part_savings": {
                p: _saving(documents, replicates, mode, p, "ablations")
                for p in cr2.PARTS
                if p in ablations
            },
            "over_mix": _saving(documents, replicates, mode, MIX),
            "hull_savings": {m: _saved(methods[OURS]["hull"], methods[m]["hull"]) for m in rivals},
            "recovered": _share(
                np.sum(1 - methods[OURS]["matched"]), np.sum(1 - methods[FULL]["matched"])
            ),
        }
    out["claims"] = claims(out)
    return out


def claims(out):
    """What issue and paper ask for, and what was found: (mode, claim, asked, found, holds)."""
    rows = []
    for mode in MODES:
        m = out["modes"][mode]
        savings = m["savings"]
        knn = savings[KNN]
        cells = np.size(m["gate"]["risk"])
        below = int(np.sum(m["gate"]["mean_at_most_alpha"]))
        # A seed by itself has no spread: its interval is the binomial one.
        of = "seed" if len(out["seeds"]) > 1 else "pooled"
        reach = int(np.sum(m["gate"][f"{of}_interval_reaches_alpha"]))
        best = max(knn["by_target"])
        worst = {name: min(s["by_target"]) for name, s in savings.items()}
        hardest = min(savings, key=lambda name: savings[name]["mean"])
        lost = {name: int(np.sum(np.array(s["by_target"]) < 0)) for name, s in savings.items()}
        rows += [
            (mode, f"cheaper than {KNN} at the best matched accuracy", "16.9 %",
             f"{best:.1%}", best >= 0.169),
            (mode, f"no dearer than {KNN} at any of the eight accuracies", "0 of 8 lost",
             f"{lost[KNN]} of 8 lost, worst {worst[KNN]:+.1%}", lost[KNN] == 0),
            (mode, "cheaper than every baseline at every accuracy", "0 lost",
             f"{sum(lost.values())} of {8 * len(lost)} lost"
             + "".join(f"; {n}: {k}" for n, k in lost.items() if k), sum(lost.values()) == 0),
            (mode, "at least 5 % cheaper on average than every baseline", "5 %",
             f"least {savings[hardest]['mean']:.1%} (against {hardest}; "
             f"95 % interval {savings[hardest]['mean_low']:.1%} to "
             f"{savings[hardest]['mean_high']:.1%})", savings[hardest]["mean"] >= 0.05),
            (mode, f"at least 5 % cheaper on average than {KNN}", "5 %",
             f"{knn['mean']:.1%} (95 % interval {knn['mean_low']:.1%} to {knn['mean_high']:.1%})",
             knn["mean"] >= 0.05),
            (mode, "of what full information saves over the unit model, kept", "98 %",
             f"{m['recovered']:.1%}" if m["recovered"] == m["recovered"] else "nothing to keep",
             not m["recovered"] < 0.98),
            # The risk may lie at α itself, where an interval lies above it once in forty times.
            (mode, "the 95 % interval of the false-acceptance rate reaches down to α",
             f"97.5 % of {cells} cells (λ, α)",
             f"{reach} of {cells}; the mean itself is at most α in {below}",
             reach >= 0.975 * cells),
        ]  # fmt: skip
    return [
        dict(zip(("mode", "claim", "asked", "found", "holds"), (*r[:4], bool(r[4])), strict=True))
        for r in rows
    ]


def text(results):
    """The first page, for a terminal."""
    lines = []
    for mode in MODES:
        m = results["modes"][mode]
        lines += ["", f"{mode} lengths, {len(results['seeds'])} seeds: cost at matched accuracy"]
        head = "".join(f"{t:8.3f}" for t in results["targets"])
        lines.append(f"{'accuracy':32s}{head}    mean  (hull)")
        for name, entry in m["methods"].items():
            row = "".join(f"{c:8.3f}" for c in entry["matched"])
            lines.append(
                f"{name:32s}{row}{np.mean(entry['matched']):8.3f}{np.mean(entry['hull']):8.3f}"
            )
        lines += ["", "ablations (mean matched cost, hull, highest risk)"]
        for name, entry in m["ablations"].items():
            lines.append(
                f"{name:32s}{np.mean(entry['matched']):8.3f}{np.mean(entry['hull']):8.3f}"
                f"{entry['risk_highest']:8.3f}"
            )
        for name, s in m["part_savings"].items():
            lines.append(
                f"cheaper than {name:26s}{s['mean']:+7.1%}, 95 % {s['mean_low']:+.1%} to "
                f"{s['mean_high']:+.1%}"
            )
    lines += ["", "claims"]
    for c in results["claims"]:
        word = "holds" if c["holds"] else "DOES NOT HOLD"
        lines.append(f"[{word}] {c['mode']}: {c['claim']}: asked {c['asked']}, found {c['found']}")
    return "\n".join(lines)
