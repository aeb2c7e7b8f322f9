"""Tables, plots and JSON of a report."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

import cr2fast
from cr2fast._util.jsontext import json_ready
from cr2fast.evaluation import plots, report


@pytest.fixture(scope="module")
def evaluation(artifact, splits):
    return cr2fast.evaluate(cr2fast.Router.load(artifact), splits[2])


def test_the_table_shows_the_numbers(evaluation):
    text = report.table(evaluation, 0.05, rows=5)
    lines = text.splitlines()
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1
    point = evaluation.at(0.1, 0.05)
    assert f"{point['accuracy']:.3f}" in lines[1]
    assert f"[{point['risk_low']:.4f}, {point['risk_high']:.4f}]" in lines[1]
    with pytest.raises(cr2fast.OperatingPointError, match="alpha=0.3"):
        report.table(evaluation, 0.3)


def test_compatibility_counts_cells(evaluation):
    line = report.compatibility(evaluation)
    for alpha, good in zip(evaluation.alphas, evaluation.compatible.sum(axis=0), strict=True):
        assert f"{alpha:g}: {good}/32" in line


def test_files_are_pictures_and_numbers(evaluation, tmp_path):
    files = report.write(
        tmp_path / "out", {"predicted lengths": evaluation}, {"note": float("nan")}
    )
    pages = ["report.html"] if report.has_pages() else []
    pictures = ["pareto.png", "risk.png", "local_rate.png"]
    assert [f.name for f in files] == ["report.json", *pages, *pictures]
    for picture in files[-3:]:
        data = picture.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(data) > 10_000
    numbers = json.loads(files[0].read_text())
    assert numbers["note"] is None
    assert numbers["modes"]["predicted lengths"]["n"] == evaluation.n


def test_json_ready_says_null_for_what_json_cannot():
    value = {"a": np.float32(0.5), "b": [np.nan, np.inf], "c": np.arange(2), "d": (1, "x", None)}
    assert json_ready(value) == {"a": 0.5, "b": [None, None], "c": [0, 1], "d": [1, "x", None]}


def drawn(draw):
    """A figure, laid out, and what in it shows where: pixel boxes of legends, names and axes."""
    figure = pytest.importorskip("matplotlib.figure").Figure(layout="constrained")
    draw(figure)
    figure.savefig(io.BytesIO(), dpi=60)
    return figure


def test_no_legend_lies_on_data_or_labels(evaluation):
    other = replace(evaluation, lengths="known", accuracy=evaluation.accuracy + 0.02)
    for draw in (
        lambda fig: plots.pareto(fig, {"predicted": evaluation, "known": other}),
        lambda fig: plots.risk(fig, evaluation),
        lambda fig: plots.local_rate(fig, evaluation),
    ):
        fig = drawn(draw)
        (legend,) = fig.legends
        box = legend.get_window_extent()
        assert not any(box.overlaps(ax.get_tightbbox()) for ax in fig.axes if ax.axison)
        assert not any(ax.get_legend() for ax in fig.axes)


def test_the_plot_has_a_panel_for_each_unit_and_no_front_picked_on_the_test_split(evaluation):
    usd = np.array([0, 1, 2, 9]) * 1e-4
    base = {k: b | {"usd": [1e-3 * c for c in b["cost"]]} for k, b in evaluation.baselines.items()}
    priced = replace(evaluation, usd=evaluation.share @ usd, baselines=base)
    for e, labels in (
        (priced, ["dollars per 1,000 queries", "seconds per query", "joules per query"]),
        (evaluation, ["seconds per query", "joules per query"]),
    ):
        fig = drawn(lambda fig, e=e: plots.pareto(fig, {"predicted": e}))
        axes = [ax for ax in fig.axes if ax.axison]
        assert [ax.get_xlabel() for ax in axes] == [*labels, "normalised cost"]
        for ax in axes:
            names = {t.get_text() for t in ax.texts}
            assert names == set(e.models)
            curves = [line for line in ax.lines if line.get_marker() == "."]
            assert sum(len(line.get_xdata()) for line in curves) == e.accuracy.size


def test_names_in_plots_are_no_formulas(evaluation):
    models = (r"$\frac{1}", "</b>", "モ" * 3, "x" * 500)
    e = replace(evaluation, models=models, unit_model=models[3])
    with warnings.catch_warnings():
        # A machine's fonts may lack a script; the name is then drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        fig = drawn(lambda fig: plots.pareto(fig, {"predicted": e}))
    assert any(t.get_text() == r"\$\frac{1}" for t in fig.axes[0].texts)
    assert all(len(t.get_text()) < 40 for t in fig.axes[0].texts)
