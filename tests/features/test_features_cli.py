"""Features at the command line: fit, calibrate, evaluate, inspect, and embeddings without texts."""

from __future__ import annotations

import json

import numpy as np
import polars as pl

from cr2fast import cli
from cr2fast.datasets import make_routing_problem


def test_a_router_with_features_from_fit_to_route(tmp_path, capsys):
    problem = make_routing_problem(n=600, d=16, models=3, seed=4)
    t = problem.table
    pl.DataFrame(
        {
            "query_id": t.query_ids,
            "category": t.categories,
            "n_input_tokens": t.n_input_tokens,
            "embedding": t.embeddings,
            "text": [f"How much is {i} + {i * i}?\nA. {i}\nB. 7" for i in range(len(t))],
            "hour": [i % 24 for i in range(len(t))],
        }
    ).write_parquet(tmp_path / "queries.parquet")
    rows = [
        {"query_id": q, "model": m, "correct": bool(t.correct[i, k]),
         "n_output_tokens": int(t.n_output_tokens[i, k])}
        for i, q in enumerate(t.query_ids) for k, m in enumerate(t.models)
    ]  # fmt: skip
    pl.DataFrame(rows).write_parquet(tmp_path / "outcomes.parquet")
    (tmp_path / "cost_table.json").write_text(problem.costs.to_json())
    data, out = ["--data", str(tmp_path)], str(tmp_path / "r.safetensors")
    fit = ["fit", *data, "-o", out, "--teacher-epochs", "2", "--gate-epochs", "1"]
    assert cli.main([*fit, "--features", "text,hour", "--smoother-share", "0.5"]) == 0
    assert cli.main(["calibrate", out, *data]) == 0
    assert cli.main(["evaluate", out, *data]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", out, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["dim"] == 16 + 17
    assert info["features"]["columns"] == ["hour"]
    assert info["parameters"]["smoother"] > 0

    np.save(tmp_path / "x.npy", t.embeddings[:3])
    route = ["route", out, "--embeddings", str(tmp_path / "x.npy"), "--lam", "1"]
    assert cli.main(route) != 0
    assert "--embeddings: expected rows of 33 numbers" in capsys.readouterr().err
    assert cli.main([*fit, "--features", "words"]) != 0
    assert "expected a column 'words'" in capsys.readouterr().err
