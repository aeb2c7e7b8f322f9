"""The report as one HTML file that needs nothing beside it. In: results and figures."""

from __future__ import annotations

import base64
from html import escape

import numpy as np

from benches.paper.study import FULL, LEVELS, OURS
from benches.paper.world import MODES

# Categories that the page shows at once, the most frequent first; more unfold.
CATEGORIES = 20
# What a category's row compares: the oracle reads the answers, and the other paths are ours.
RIVALS = ("KNN", "MLP", "EmbedLLM", "LLMRank", "random mix")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1260px;margin:2rem auto;padding:0 1rem;color:#222;
overflow-wrap:anywhere}
table{border-collapse:collapse;margin:1rem 0;font-size:13px}td,th{padding:.25rem .6rem;
border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}
th{vertical-align:bottom}td,th{white-space:nowrap}td:first-child{white-space:normal;min-width:10rem}
.wide{overflow-x:auto}.narrow th,.narrow td,.words td{white-space:normal}.narrow th{min-width:4rem;
overflow-wrap:normal}.words td,.words th{text-align:left}.words td:last-child{white-space:nowrap}
.lost,.no{background:#fde8e6}
.yes{background:#e6f4ea}.ours{font-weight:600}img{max-width:100%}
.note{color:#555}
"""


def _table(head, rows, classes=None, kind=""):
    classes = classes or [""] * len(rows)
    out = [
        f'<table class="{kind}"><tr>'
        + "".join(f"<th>{escape(str(h))}</th>" for h in head)
        + "</tr>"
    ]
    for row, css in zip(rows, classes, strict=True):
        cells = "".join(f"<td>{escape(str(c))}</td>" for c in row)
        out.append(f'<tr class="{css}">{cells}</tr>')
    return '<div class="wide">' + "\n".join(out) + "</table></div>"


def _number(value, form="{:.3f}"):
    """A number, or a dash where there is none: JSON has null for what no query was measured on."""
    return "–" if value is None or not np.isfinite(value) else form.format(value)


def _pm(mean, half, form="{:.3f}"):
    known = half is not None and np.isfinite(half)
    return _number(mean, form) + (f" ± {form.format(half)}" if known else "")


def _claims(results):
    rows = [
        (c["mode"], c["claim"], c["asked"], c["found"], "holds" if c["holds"] else "does not hold")
        for c in results["claims"]
    ]
    css = ["yes" if c["holds"] else "no" for c in results["claims"]]
    return _table(("lengths", "claim", "asked", "found", ""), rows, css, "words")


def _matched(results, mode):
    m = results["modes"][mode]
    rows, css = [], []
    for name, e in m["methods"].items():
        half = e["matched_half"]
        cells = [_pm(c, h) for c, h in zip(e["matched"], half, strict=True)]
        rows.append((name, *cells, f"{np.mean(e['matched']):.3f}", f"{np.mean(e['hull']):.3f}",
                     _pm(e["area"], e["area_half"])))  # fmt: skip
        css.append("ours" if name == OURS else "")
    low, high = results["area_range"]
    head = ("cost at accuracy", *(f"{t:.3f}" for t in results["targets"]), "mean", "mean, hull",
            f"mean accuracy, cost {low} to {high}")  # fmt: skip
    return _table(head, rows, css)


def _savings(results, mode):
    m = results["modes"][mode]
    rows = []
    for name, s in m["savings"].items():
        cells = [
            f"{v:+.1%} ({lo:+.1%} to {hi:+.1%})"
            for v, lo, hi in zip(s["by_target"], s["low"], s["high"], strict=True)
        ]
        mean = f"{s['mean']:+.1%} ({s['mean_low']:+.1%} to {s['mean_high']:+.1%})"
        rows.append((name, *cells, mean, f"{np.mean(m['hull_savings'][name]):+.1%}"))
    head = ("against", *(f"{t:.3f}" for t in results["targets"]), "mean", "hull")
    return _table(head, rows, kind="narrow")


UNITS = (
    ("latency_s", "latency s", 1, "{:.2f}"),
    ("energy_j", "energy J", 1, "{:.0f}"),
    ("usd", "$ per 1,000", 1000, "{:.3g}"),
)


def _units(results, mode):
    methods = results["modes"][mode]["methods"]
    at = {name: e["units"][3] for name, e in methods.items()}
    known = [u for u in UNITS if any(v[u[0]]["mean"] is not None for v in at.values())]
    if not known:
        return ""
    rows = [
        (name, *(_number(v[unit][k] and scale * v[unit][k], form)
                 for unit, _, scale, form in known for k in ("mean", "p50", "p95")))
        for name, v in at.items()
    ]  # fmt: skip
    head = [f"at accuracy {results['targets'][3]:.3f}"]
    for _, label, _, _ in known:
        head += [f"{label}, mean", "p50", "p95"]
    return _table(head, rows)


def _categories(results, mode, level):
    """A row a category: ours, full information, and each rival, in red where it does better."""
    methods = results["modes"][mode]["methods"]
    names = [OURS, FULL, *(n for n in methods if n.startswith(RIVALS))]
    at = {n: methods[n]["by_category"][str(level)] for n in names}
    # The first is "all"; a category may lack answerable queries in the test split of some seed.
    every = list(at[OURS])
    head = (f"accuracy at cost {level}", *names)
    first = _compared(every[: 1 + CATEGORIES], names, at, head)
    rest = every[1 + CATEGORIES :]
    if rest:
        first += f"<details><summary>{len(rest)} more categories</summary>"
        first += _compared(rest, names, at, head) + "</details>"
    return first


def _compared(categories, names, at, head):
    out = ['<table class="narrow"><tr>' + "".join(f"<th>{escape(h)}</th>" for h in head) + "</tr>"]
    for c in categories:
        ours = at[OURS].get(c)
        cells = []
        for n in names:
            value = at[n].get(c)
            lost = n not in (OURS, FULL) and None not in (ours, value) and value > ours
            cells.append(f"<td{' class=lost' * lost}>{_number(value)}</td>")
        out.append(f"<tr><td>{escape(_cut(c))}</td>" + "".join(cells) + "</tr>")
    return '<div class="wide">' + "\n".join(out) + "</table></div>"


def _cut(text, length=80):
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _ablations(results, mode):
    m = results["modes"][mode]
    base = m["methods"][OURS]
    rows = [("as chosen", _pm(np.mean(base["matched"]), None), f"{np.mean(base['hull']):.3f}", "",
             f"{m['gate']['risk_highest']:.3f}", f"{np.mean(m['gate']['local_rate']):.3f}",
             " ".join(f"{v:.4f}" for v in np.mean(m["gate"]["risk"], axis=0)))]  # fmt: skip
    for name, e in m["ablations"].items():
        change = np.mean(e["hull"]) / np.mean(base["hull"]) - 1
        risk = " ".join(f"{v:.4f}" for v in e.get("risk_by_alpha", []))
        rows.append((name, f"{np.mean(e['matched']):.3f}", f"{np.mean(e['hull']):.3f}",
                     f"{change:+.1%}", f"{e['risk_highest']:.3f}", f"{e['local_rate']:.3f}",
                     risk))  # fmt: skip
    head = ("variant", "mean matched cost", "hull", "hull, change", "highest risk", "local rate",
            "mean risk over λ, by α")  # fmt: skip
    return _table(head, rows)


def _complexity(results):
    rows = [
        (r["name"], f"{r['parameters']:,}" if r["parameters"] else "–", f"{r['flops']:,}",
         f"{r['median_us']:.1f}")
        for r in results["complexity"]
    ]  # fmt: skip
    return _table(("head", "parameters", "FLOPs", "median µs per query"), rows)


def _chosen(results):
    names = list(results["chosen"][0])
    rows = [
        (n, *(", ".join(f"{k} {v}" for k, v in c[n].items()) for c in results["chosen"]))
        for n in names
    ]
    return _table(("method, mode", *(f"seed {s}" for s in results["seeds"])), rows)


def write(results, images, path):
    """Write the page."""
    run, q, data = results["run"], results["queries"], results["data"]
    parts = [
        f"<!doctype html><meta charset=utf-8><title>cr2fast: the experiments on "
        f"{escape(data['name'])}</title><style>{STYLE}</style>"
        f"<h1>CR²: the paper's experiments on {escape(data['name'])}</h1>",
        f"<p>Answers of {len(data['models'])} models "
        f"({escape(', '.join(data['models']))}; the first is the device's, "
        f"{escape(data['reference'])} the unit of cost); {q['train']} training, {q['calibration']} "
        f"calibration and {q['test']} test queries per seed; seeds: {len(results['seeds'])}. Costs "
        f"are of a table that is <em>{data['costs']}</em>. Accuracy and cost are on test queries "
        f"that some model answers. <em>Predicted lengths</em> is how a router is deployed; "
        f"<em>known lengths</em>, the paper's assumption, lets the edge see the lengths of "
        f"answers not yet written. A "
        f"method that reaches an accuracy at none of its {run['points']} operating points pays the "
        f"reference model's cost, 1.</p><h2>What was claimed, and what was found</h2>",
        _claims(results),
        "<p class=note>Where a baseline is cheaper than CR², the savings below are negative.</p>",
    ]
    for mode in MODES:
        parts += [
            f"<h2>{mode} lengths</h2><h3>Cost at matched accuracy (mean over seeds ± half of the "
            f"95 % interval)</h3>", _matched(results, mode),
            f"<h3>What {escape(OURS)} saves (95 % interval, paired bootstrap over queries)</h3>",
            _savings(results, mode), _units(results, mode),
            "<h3>Table II: accuracy by category at matched cost (red: a rival does better)</h3>",
            *(_categories(results, mode, level) for level in LEVELS),
            *(("<h3>Table III: ablations</h3>", _ablations(results, mode))
              if results["modes"][mode]["ablations"] else ()),
        ]  # fmt: skip
    parts += ["<h2>Table IV: size and speed of the heads</h2>", _complexity(results)]
    for title, file in images.values():
        image = base64.b64encode(file.read_bytes()).decode()
        parts.append(f'<p><img alt="{escape(title)}" src="data:image/png;base64,{image}"></p>')
    opened = [r["opened"] for r in results["test_split"]]
    parts += [
        "<h2>How it was done</h2><ul>",
        "<li>All methods learn from the same training split and see the same embeddings and link "
        "states; the LLMRank-style ranker also reads nine features of the text. Thresholds come "
        "from the calibration split.</li>",
        f"<li>Configurations are chosen on the training split, by {run['repeats']} hold-outs; the "
        f"criterion is the same for all: mean cost of the hull at eight accuracies. For CR² the "
        f"deferral path is chosen with the configuration.</li>"
        if run["repeats"]
        else "<li>A quick run: each method's usual configuration, none chosen.</li>",
        f"<li>The test split of each seed was opened {opened} times, after the plan (choices, "
        f"grids, thresholds) was fixed; its SHA-256 is in the JSON.</li>",
        f"<li>{escape(FULL)} chooses among all models with the teacher and the state: an upper "
        f"reference, not deployable on a device.</li>",
        "<li>Inclusive: the edge may send a query back; uplink and round trip are then paid on top "
        "of the local cost.</li>",
        "<li>The guarantee bounds the mean over calibration sets, at each (λ, α) by itself, for "
        "queries exchangeable with the calibration set. Matched costs pick the best of many "
        "points, for which it says nothing at once.</li></ul><h3>Configurations chosen</h3>",
        _chosen(results),
        f"<p class=note>cr2fast {escape(run['cr2fast'])}, {run['cpus']} CPUs, "
        f"{run['seconds_of_seeds'] / 60:.1f} minutes.</p>",
    ]  # fmt: skip
    path.write_text("\n".join(parts), encoding="utf-8")
