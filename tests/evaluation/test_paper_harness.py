"""benches/paper runs on any folder that ``load_folder`` reads: here two small, unlike MMLU-Pro."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import cr2fast
from cr2fast.datasets import make_routing_problem

pytest.importorskip("jax", reason="benches/paper/requirements.txt is not installed")
pytest.importorskip("sklearn", reason="benches/paper/requirements.txt is not installed")

from benches.paper import cr2, documents, page, run, study
from benches.pools import pools


def write_folder(folder, problem, costs, queries):
    """The problem as three files; `queries` adds columns to the queries."""
    t = problem.table
    folder.mkdir()
    pl.DataFrame(
        {
            "query_id": t.query_ids,
            "n_input_tokens": t.n_input_tokens,
            "embedding": t.embeddings.tolist(),
            **queries,
        }
    ).write_parquet(folder / "some_queries.parquet")
    pl.concat(
        pl.DataFrame(
            {
                "query_id": t.query_ids,
                "model": [m] * len(t),
                "correct": t.correct[:, k],
                "n_output_tokens": t.n_output_tokens[:, k],
            }
        )
        for k, m in enumerate(t.models)
    ).write_parquet(folder / "some_outcomes.parquet")
    (folder / "cost_table.json").write_text(json.dumps(costs))


def dollars(models):
    """A table of prices and nothing else."""
    prices = ((0, 0), (2e-7, 2e-7), (1.5e-7, 6e-7), (2.5e-6, 1e-5))
    names = ("usd_per_input_token", "usd_per_output_token")
    return cr2fast.CostTable.of_prices(
        {m: dict(zip(names, p, strict=True)) for m, p in zip(models, prices, strict=True)}
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bare", "rich", "dollars"])
def test_the_harness_runs_on_any_folder(tmp_path, monkeypatch, kind):
    """No text, category, energy, and a reference that is not the last; or 118 categories; or prices."""
    problem = make_routing_problem(n=500, d=16, models=4, seed=3)
    costs = json.loads(problem.costs.to_json())
    queries = {}
    if kind == "bare":
        costs["reference_model"] = problem.table.models[1]
        costs["weights"] = {"latency": 1.0, "energy": 0.0}
        costs["ue"] = dict.fromkeys(costs["ue"])
        for model in costs["models"]:
            model["p_active_w"] = None
    elif kind == "rich":
        queries = {
            "text": [f"question {i}?" for i in range(500)],
            "category": [f"<b>c{i % 118}</td>" + "x" * 200 * (i % 118 == 0) for i in range(500)],
        }
    else:
        costs = json.loads(dollars(problem.table.models).to_json())
    write_folder(tmp_path / "data", problem, costs, queries)
    few = [replace(b, configs=b.configs[-1:]) for b in study.BASELINES]
    monkeypatch.setattr(study, "BASELINES", few)
    monkeypatch.setattr(study, "Scope", functools.partial(study.Scope, bootstrap=50))
    monkeypatch.setattr(cr2, "LAMS", np.geomspace(*cr2.LAM_RANGE, 6))
    monkeypatch.setattr(cr2, "GATES", {"no FiLM": {"film": False}})
    out = tmp_path / "out"
    # Each seed's test split lacks other categories.
    seeds = {"bare": "1", "rich": "2", "dollars": "1"}[kind]
    run.main(
        ["--data", str(tmp_path / "data"), "--seeds", seeds, "--repeats", "1", "--out", str(out)]
    )
    results = json.loads((out / "some" / "results.json").read_text())
    html = (out / "some" / "report.html").read_text()
    markdown = (out / "results.md").read_text()
    assert (out / "results-some.png").read_bytes()[:4] == b"\x89PNG"
    check_document(results, markdown)
    assert results["data"]["reference"] == costs["reference_model"]
    # Images are base64, in which any four letters may stand.
    assert "MMLU" not in re.sub(r"base64,[^\"]*", "", html)
    ours = results["modes"]["predicted"]["methods"][study.OURS]
    units = {k: v["mean"] for k, v in ours["units"][3].items()}
    known = {"bare": {"latency_s"}, "rich": {"latency_s", "energy_j"}, "dollars": {"usd"}}[kind]
    assert {k for k, v in units.items() if v is not None} == known
    assert ("$ per 1,000" in html) == (kind == "dollars")
    categories = ours["by_category"]["0.45"]
    if kind == "rich":
        assert 80 < len(categories) <= 119
        assert f"{len(categories) - 1 - page.CATEGORIES} more categories" in html
        assert all(v is not None for v in categories.values())
        assert "&lt;b&gt;c1&lt;/td&gt;" in html
        assert "<b>" not in html
        assert "x" * 100 not in html
    else:
        assert list(categories) == ["all", "none"]


def check_document(results, markdown):
    """The documents' page says every loss, before its table, and every row of the table."""
    for mode in ("predicted", "known"):
        savings = documents.compared(results, mode)
        assert len(savings) == 2 * len(study.BASELINES) + 1
        lost = sum(v < 0 for s in savings.values() for v in s["by_target"])
        count = sum(len(s["by_target"]) for s in savings.values())
        said = f"With {mode} lengths a baseline is cheaper in {lost} of {count} comparisons"
        assert said in markdown
        assert len(documents.losses(results, mode)) == sum(
            min(s["by_target"]) < 0 for s in savings.values()
        )
    assert markdown.index("### Where it loses") < markdown.index("### Cost at matched accuracy")
    for mode in ("predicted", "known"):
        found = results["modes"][mode]
        said = next(r for r in markdown.splitlines() if r.startswith(f"- With {mode} lengths: "))
        numbers = [100 * found["savings"]["KNN, constant"][k] for k in ("mean", "mean_low")]
        assert said.split(": ")[1].startswith(f"{numbers[0]:.1f} % ({numbers[1]:.1f} to ")
        kept = found["recovered"]
        assert ("saves nothing" if kept is None else f"{100 * kept:.1f} % is kept") in said
        # Parts of the teacher have an interval, what is changed in the gate has none.
        assert set(found["part_savings"]) == set(cr2.PARTS) < set(found["ablations"])
        for name, entry in found["ablations"].items():
            row = next(r for r in markdown.splitlines() if r.startswith(f"| {mode} | {name} |"))
            cells = [c.strip() for c in row.strip("|").split("|")]
            assert float(cells[2]) == pytest.approx(np.mean(entry["matched"]), abs=6e-4)
            assert (" to " in cells[3]) == (name in cr2.PARTS)
    for name, entry in results["modes"]["predicted"]["methods"].items():
        row = next(r for r in markdown.splitlines() if r.strip("| *").startswith(name))
        assert [float(c.strip(" *")) for c in row.split("|")[2:-2]] == pytest.approx(
            entry["matched"], abs=6e-4
        )
        # In bold, and only there, where a baseline is cheaper.
        if name in documents.compared(results, "predicted"):
            ours = results["modes"]["predicted"]["methods"][study.OURS]["matched"]
            bold = [c.strip().startswith("**") for c in row.split("|")[2:-2]]
            assert bold == [a < b for a, b in zip(entry["matched"], ours, strict=True)]


def test_pools_are_found_and_named(tmp_path):
    def pool(folder, queries="queries.parquet"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / queries).touch()
        (folder / "cost_table.json").touch()

    with pytest.raises(SystemExit, match="expected a folder"):
        pools(tmp_path / "none")
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit, match="got none"):
        pools(tmp_path / "data")
    pool(tmp_path / "data" / "b c")
    assert pools(tmp_path / "data") == {"b_c": tmp_path / "data" / "b c"}
    pool(tmp_path / "data", "exam_queries.parquet")
    pool(tmp_path / "data" / "other", "exam-queries.parquet")
    (tmp_path / "data" / "raw").mkdir()
    assert list(pools(tmp_path / "data")) == ["exam", "b_c", "exam-2"]
    assert list(pools(tmp_path / "data" / "other")) == ["exam"]
