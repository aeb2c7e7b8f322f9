"""Reports: a table for the terminal, plots, and the numbers behind them as JSON.

In: evaluations by mode. Out: text, ``report.html``, ``pareto.png``, ``risk.png``,
``local_rate.png``, ``report.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cr2fast._util.files import write_whole
from cr2fast._util.jsontext import json_ready
from cr2fast._util.optional import require
from cr2fast._util.text import useful
from cr2fast.evaluation import plots as plots
from cr2fast.evaluation.figures import LENGTHS, WORDS
from cr2fast.evaluation.page import write_page
from cr2fast.evaluation.result import Evaluation

_COLUMNS = (
    ("lam", "lam", "{:g}"),
    ("accuracy", "accuracy", "{:.3f}"),
    ("acc. ans.", "accuracy_answerable", "{:.3f}"),
    ("cost", "cost", "{:.3f}"),
    ("latency s", "latency_s", "{}"),
    ("energy J", "energy_j", "{}"),
    ("$ per 1,000", "usd_per_1000", "{}"),
    ("local", "local_rate", "{:.3f}"),
    ("risk", "risk", "{:.4f}"),
    ("needless", "needless_deferrals", "{:.3f}"),
)


def table(evaluation: Evaluation, alpha: float, rows: int = 12) -> str:
    """Text table of one risk level, at cost weights spread evenly over the grid.

    Parameters
    ----------
    evaluation : Evaluation
    alpha : float
        A calibrated risk level.
    rows : int
        About how many cost weights to show, the ends among them.
    """
    unknown = {
        key for key in ("latency_s", "energy_j", "usd") if np.isnan(getattr(evaluation, key)).all()
    }
    columns = [c for c in _COLUMNS if c[1].removesuffix("_per_1000") not in unknown]
    interval = 1 + [key for _, key, _ in columns].index("risk")
    step = np.unique(np.linspace(0, len(evaluation.lams) - 1, rows).round().astype(int))
    lines = [[name for name, _, _ in columns]]
    lines[0].insert(interval, "95 % interval")
    for lam in evaluation.lams[step]:
        point = evaluation.at(float(lam), alpha)
        point["usd_per_1000"] = 1000 * point["usd"]
        cells = [
            useful(point[key]) if form == "{}" else form.format(point[key])
            for _, key, form in columns
        ]
        cells.insert(interval, f"[{point['risk_low']:.4f}, {point['risk_high']:.4f}]")
        lines.append(cells)
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in lines
    )


def words(evaluation: Evaluation) -> str:
    """What the words of :func:`table` mean, for where the first one stands."""
    lengths = f"{evaluation.lengths} lengths: {LENGTHS[evaluation.lengths]}"
    return "\n".join([lengths, *WORDS.values()])


def compatibility(evaluation: Evaluation) -> str:
    """Say for each risk level at how many cost weights the interval reaches down to alpha."""
    good = evaluation.compatible.sum(axis=0)
    cells = [
        f"{a:g}: {k}/{len(evaluation.lams)}" for a, k in zip(evaluation.alphas, good, strict=True)
    ]
    least = np.nanmin(evaluation.p_value) if np.isfinite(evaluation.p_value).any() else np.nan
    return (
        "lam at which the 95 % interval of the realised risk reaches down to alpha: "
        + ", ".join(cells)
        + f"; least p-value of the guarantee over the grid, both draws counted: {least:.3f}"
    )


def write(
    folder: str | Path,
    evaluations: Mapping[str, Evaluation],
    extra: Mapping[str, Any],
    *,
    source: str = "",
    validation: Mapping[str, Evaluation] | None = None,
) -> list[Path]:
    """Write plots, ``report.json`` and, where Bokeh is installed, ``report.html``.

    Parameters
    ----------
    folder : path
        Made if missing.
    evaluations : mapping of str to Evaluation
        By mode, such as ``{"predicted": ...}``; the first is plotted at all its risk levels.
    extra : mapping
        More entries for the JSON.
    source : str
        Where the data come from, for the page's title; of a folder, its name is shown.
    validation : mapping of str to Evaluation, optional
        By mode, what the page's budgets choose on.

    Returns
    -------
    list of Path
        The files written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = dict(extra) | {"modes": {k: e.to_dict() for k, e in evaluations.items()}}
    path = folder / "report.json"
    text = json.dumps(json_ready(numbers), indent=1, allow_nan=False) + "\n"
    write_whole(path, text.encode())
    files = [path]
    if has_pages():
        name = Path(source).resolve().name if Path(source).is_dir() else source
        files.append(write_page(folder / "report.html", evaluations, name, validation))
    first = next(iter(evaluations.values()))
    drawings: dict[str, Callable[[Any], None]] = {
        "pareto.png": lambda fig: plots.pareto(fig, evaluations),
        "risk.png": lambda fig: plots.risk(fig, first),
        "local_rate.png": lambda fig: plots.local_rate(fig, first),
    }
    figure: Any = require("matplotlib.figure", "lab").Figure
    for name, draw in drawings.items():
        fig = figure(figsize=(7, 4.5), layout="constrained")
        draw(fig)
        fig.savefig(folder / name, dpi=130)
    return [*files, *(folder / name for name in drawings)]


def has_pages() -> bool:
    """Whether what draws ``report.html`` is installed."""
    return find_spec("bokeh") is not None
