"""An evaluation as one page that needs nothing beside it.

In: evaluations by mode, and where the data came from. Out: ``report.html``: accuracy against cost
in each unit that the cost table knows, the operating point that sliders of budgets choose, the
realised risk of one alpha at a time. Bokeh draws; ``page.js`` moves the data. A policy in the page
forbids every request, and no name in the data is ever read as markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from cr2fast._util.files import write_whole
from cr2fast._util.jsontext import json_ready
from cr2fast._util.optional import require
from cr2fast.calibration import ALPHA
from cr2fast.evaluation.result import Evaluation
from cr2fast.evaluation.units import UNITS, big_model

_NAME, _SOURCE = 200, 300

# What the sliders bound: a keyword of Evaluation.choose, the figure of the grid, whether it is a
# least value, and how many of the shown unit are one of the keyword's.
_BUDGETS: tuple[tuple[str, str, bool, str, float], ...] = (
    ("min_accuracy", "accuracy", True, "accuracy at least", 1),
    ("max_usd", "usd", False, "dollars per 1,000 queries, mean at most", 1000),
    ("max_latency_s", "latency_s", False, "seconds per query, mean at most", 1),
    ("max_latency_p95_s", "latency_p95_s", False, "seconds, of 95 % of queries at most", 1),
    ("max_energy_j", "energy_j", False, "joules per query, mean at most", 1),
)
_RULE = (
    "With a least accuracy, the cheapest operating point that keeps all budgets is chosen; without "
    "one, the most accurate."
)
# What the chosen point's table shows: decimals, or None for three significant digits.
_FIGURES: tuple[tuple[str, str, float, int | None], ...] = (
    ("accuracy", "answered correctly, of all queries", 1, 3),
    ("accuracy_answerable", "answered correctly, of those that some model answers", 1, 3),
    ("usd", "dollars per 1,000 queries", 1000, None),
    ("latency_s", "seconds per query, mean", 1, None),
    ("latency_p95_s", "seconds, 95 % of queries within", 1, None),
    ("energy_j", "joules per query, mean", 1, None),
    ("cost", "normalised cost, mean (the unit model's is 1)", 1, 3),
    ("local_rate", "kept on the device", 1, 3),
    ("risk", "false acceptances: kept although the judge prefers the edge", 1, 4),
    ("needless_deferrals", "needless deferrals: sent although the judge prefers the device", 1, 3),
)
_SOURCES = (
    "points", "curves", "alone", "mix", "full_information", "oracle", "chosen", "rates", "level",
)  # fmt: skip


def write_page(
    path: str | Path,
    evaluations: Mapping[str, Evaluation],
    source: str,
    validation: Mapping[str, Evaluation] | None = None,
) -> Path:
    """Write the page.

    Parameters
    ----------
    path : path
        The HTML file; its folder must be there.
    evaluations : mapping of str to Evaluation
        By mode, such as ``{"predicted lengths": ...}``; the page opens with the first.
    source : str
        Where the data come from, for the title.
    validation : mapping of str to Evaluation, optional
        By the same modes, on queries that are neither the test split's nor the router's: the
        budgets then choose on these.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ImportError
        Bokeh is not installed; the message says how to install it.
    """
    library = require("bokeh.resources", "report").Resources(
        mode="inline", components=["bokeh"], minified=True, log_level="error"
    )
    source = _cut(source, _SOURCE)
    modes = [
        _mode(source, name, e, (validation or {}).get(name)) for name, e in evaluations.items()
    ]
    data = {
        "modes": modes,
        "units": [
            {"figure": u.figure, "label": u.label, "scale": u.scale}
            for u in UNITS
            if any(u.known(e) for e in evaluations.values())
        ],
        "budgets": [
            dict(zip(("name", "figure", "least", "label", "scale"), b, strict=True))
            for b in _BUDGETS
        ],
        "figures": [
            dict(zip(("figure", "label", "scale", "digits"), f, strict=True)) for f in _FIGURES
        ],
        "rule": _RULE,
        "alpha": ALPHA,
        "sources": _SOURCES,
        "figures_json": _figures(np.min([e.lams.min() for e in evaluations.values()]) > 0),
    }
    folder = resources.files("cr2fast.evaluation")
    parts = {
        "title": escape(modes[0]["title"]),
        "data": _for_script(data),
        "bokeh": "\n".join(library.js_raw),
        "script": (folder / "page.js").read_text(encoding="utf-8"),
    }
    template = (folder / "page.html").read_text(encoding="utf-8")
    # One pass: what is put in is not looked at again.
    text = re.sub(r"@(title|data|bokeh|script)@", lambda m: parts[m[1]], template)
    path = Path(path)
    write_whole(path, text.encode("utf-8", errors="xmlcharrefreplace"))
    return path


def _for_script(value: Any) -> str:
    """JSON that may stand in a script element: no character that HTML could take for markup."""
    text = json.dumps(json_ready(value), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _grid(e: Evaluation) -> dict[str, Any]:
    """The figures of the operating points, alpha fastest."""
    names = {f for _, f, *_ in _BUDGETS} | {f for f, *_ in _FIGURES}
    low, high = np.moveaxis(e.risk_interval, 2, 0)
    flat = {name: getattr(e, name).ravel() for name in sorted(names)}
    return flat | {
        "lam": np.repeat(e.lams, len(e.alphas)),
        "alpha": np.tile(e.alphas, len(e.lams)),
        "risk_low": low.ravel(),
        "risk_high": high.ravel(),
        "share": e.share.reshape(-1, len(e.models)),
    }


def _mode(source: str, name: str, e: Evaluation, validation: Evaluation | None) -> dict[str, Any]:
    seeds = f", {validation.n:,} validation queries" if validation else ""
    name = f"{name} lengths" if name == e.lengths else _cut(name, _NAME)
    return {
        "name": name,
        "title": f"{source}, {name}" if source else name,
        "lams": e.lams,
        "alphas": e.alphas,
        "models": [_cut(m, _NAME) for m in e.models],
        "big": big_model(e),
        "test": _grid(e),
        "validation": validation and _grid(validation),
        **e.baselines,
        "facts": (
            f"{e.n:,} test queries ({e.n_answerable:,} that some model answers){seeds}; thresholds "
            f"from {e.n_calibration:,} calibration samples; judge: {e.judge}; deferred queries: "
            f"{e.deferred}; the unit of normalised cost is {_cut(e.unit_model, _NAME)}."
        ),
        "statement": e.statement,
    }


def _figures(log_lams: bool) -> dict[str, Any]:
    """The two figures as JSON for Bokeh, their sources empty and named."""
    models: Any = require("bokeh.models", "report")
    figure: Any = require("bokeh.plotting", "report").figure
    json_item: Any = require("bokeh.embed", "report").json_item

    def source(name: str, *columns: str) -> Any:
        return models.ColumnDataSource({c: [] for c in columns}, name=name)

    point_columns = ("x", "y", "lam", "alpha", "color", "cost", "local", "risk")
    points, curves = source("points", *point_columns), source("curves", "xs", "ys", "color")
    alone = source("alone", "x", "y", "dx", "dy", "name", "label", "align")
    chosen = source("chosen", "x", "y", "lam", "alpha")
    tools = "pan,box_zoom,wheel_zoom,save,reset"
    common: dict[str, Any] = {
        "tools": tools, "height": 480, "sizing_mode": "stretch_width", "output_backend": "canvas",
    }  # fmt: skip
    pareto = figure(
        name="pareto", y_axis_label="accuracy, all test queries",
        x_range=models.DataRange1d(only_visible=True),
        y_range=models.DataRange1d(only_visible=True), **common,
    )  # fmt: skip
    pareto.xaxis.name = "pareto-x"
    drawn: list[tuple[str, list[Any]]] = []

    def line(name: str, label: str, dash: str, tips: list[tuple[str, str]], *columns: str) -> None:
        data = source(name, "x", "y", *columns)
        drawn.append((label, [pareto.line("x", "y", source=data, color="#888", line_dash=dash)]))
        marks = pareto.scatter("x", "y", source=data, size=7, alpha=0)
        drawn[-1][1].append(marks)
        tips = [("", label), *tips]
        hover = models.HoverTool(renderers=[marks], tooltips=tips, limit=1, attachment="above")
        pareto.add_tools(hover)

    where = [("accuracy", "@y{0.000}"), ("cost", "@x{0.[0000]}")]
    share = ("sent to the big model", "@share{0%}")
    line("mix", "random mix", "dotdash", [share, *where], "share")
    lam = ("λ", "@lam{0.[0000]}")
    line("full_information", "full information (no gate)", "dashed", [lam, *where], "lam")
    line("oracle", "oracle (sees the answers)", "dotted", [lam, *where], "lam")
    dots = pareto.scatter("x", "y", source=points, size=6, color="color", alpha=0.75)
    lines = pareto.multi_line("xs", "ys", source=curves, color="color", alpha=0.45)
    crosses = pareto.scatter("x", "y", source=alone, marker="x", size=11, color="black",
                             line_width=2)  # fmt: skip
    names = pareto.text(
        "x", "y", "label", source=alone, text_font_size="12px", text_baseline="middle",
        x_offset="dx", y_offset="dy", text_align="align",
    )  # fmt: skip
    star = pareto.scatter("x", "y", source=chosen, marker="star", size=24, color="#e8590c",
                          line_color="black")  # fmt: skip
    drawn = [
        ("operating points (λ, α)", [dots, lines]), ("the chosen point", [star]),
        ("each model alone", [crosses, names]), *drawn,
    ]  # fmt: skip
    more = [
        ("α", "@alpha{0.[0000]}"), *where, ("normalised cost", "@cost{0.000}"),
        ("kept on the device", "@local{0.000}"), ("realised risk", "@risk{0.0000}"),
    ]  # fmt: skip
    pareto.add_tools(
        models.HoverTool(renderers=[dots], tooltips=[lam, *more], limit=4),
        models.HoverTool(
            renderers=[crosses], tooltips=[("model alone", "@name"), *where], attachment="below"
        ),
    )
    items = [models.LegendItem(label=label, renderers=renderers) for label, renderers in drawn]
    pareto.add_layout(
        models.Legend(items=items, ncols=2, click_policy="hide", location="left"), "below"
    )

    risk = figure(
        name="risk", x_axis_type="log" if log_lams else "linear", x_axis_label="cost weight λ",
        y_axis_label="false-acceptance rate", y_range=models.DataRange1d(start=0), **common,
    )  # fmt: skip
    data, level = source("rates", "x", "y", "low", "high", "local"), source("level", "x", "y")
    at = risk.scatter("x", "y", source=data, size=7, color="#2c728e")
    risk.line("x", "y", source=data, color="#2c728e")
    risk.add_layout(models.Whisker(base="x", lower="low", upper="high", source=data))
    # Invisible marks: the range of the axis has to hold the intervals' upper ends.
    risk.scatter("x", "high", source=data, alpha=0)
    dashed = risk.line("x", "y", source=level, color="#a31515", line_dash="dashed", line_width=2)
    risk.add_tools(
        models.HoverTool(
            renderers=[at],
            tooltips=[
                lam, ("risk", "@y{0.0000}"), ("95 % interval", "@low{0.0000} to @high{0.0000}"),
                ("kept on the device", "@local{0.000}"),
            ],
        )
    )  # fmt: skip
    legend = [
        models.LegendItem(label="realised risk, 95 % interval", renderers=[at]),
        models.LegendItem(
            label="α, which bounds it on average over calibration sets", renderers=[dashed]
        ),
    ]
    risk.add_layout(models.Legend(items=legend, ncols=1, location="left"), "below")
    for fig in (pareto, risk):
        fig.toolbar.logo = None
    return {"pareto": json_item(pareto, "pareto"), "risk": json_item(risk, "risk")}
