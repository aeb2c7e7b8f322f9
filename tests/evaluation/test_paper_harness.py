"""benches/paper runs on any folder that ``load_folder`` reads: here two small, unlike MMLU-Pro."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from cr2fast.datasets import make_routing_problem

pytest.importorskip("jax", reason="benches/paper/requirements.txt is not installed")
pytest.importorskip("sklearn", reason="benches/paper/requirements.txt is not installed")

from benches.paper import cr2, page, run, study


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bare", "rich"])
def test_the_harness_runs_on_any_folder(tmp_path, monkeypatch, kind):
    """No text, category, energy, and a reference that is not the last; or 118 categories."""
    problem = make_routing_problem(n=500, d=16, models=4, seed=3)
    costs = json.loads(problem.costs.to_json())
    queries = {}
    if kind == "bare":
        costs["reference_model"] = problem.table.models[1]
        costs["weights"] = {"latency": 1.0, "energy": 0.0}
        costs["ue"] = dict.fromkeys(costs["ue"])
        for model in costs["models"]:
            model["p_active_w"] = None
    else:
        queries = {
            "text": [f"question {i}?" for i in range(500)],
            "category": [f"c{i % 118}" for i in range(500)],
        }
    write_folder(tmp_path / "data", problem, costs, queries)
    few = [replace(b, configs=b.configs[-1:]) for b in study.BASELINES]
    monkeypatch.setattr(study, "BASELINES", few)
    monkeypatch.setattr(study, "BOOTSTRAP", 50)
    monkeypatch.setattr(cr2, "LAMS", np.geomspace(*cr2.LAM_RANGE, 6))
    monkeypatch.setattr(cr2, "GATES", {"no FiLM": {"film": False}})
    out = tmp_path / "out"
    # Each seed's test split lacks other categories.
    seeds = {"bare": "1", "rich": "2"}[kind]
    run.main(
        ["--data", str(tmp_path / "data"), "--seeds", seeds, "--repeats", "1", "--out", str(out)]
    )
    results = json.loads((out / "results.json").read_text())
    html = (out / "report.html").read_text()
    assert results["data"]["reference"] == costs["reference_model"]
    assert "MMLU" not in html
    ours = results["modes"]["predicted"]["methods"][study.OURS]
    joules = ours["units"][3]["energy_j"]["mean"]
    assert (joules is None) == (kind == "bare")
    categories = ours["by_category"]["0.45"]
    if kind == "rich":
        assert 80 < len(categories) <= 119
        assert f"{len(categories) - 1 - page.CATEGORIES} more categories" in html
        assert all(v is not None for v in categories.values())
    else:
        assert list(categories) == ["all", "none"]
        assert "–" in html
