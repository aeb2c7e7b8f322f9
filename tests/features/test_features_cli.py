"""Features at the command line: fit, calibrate, evaluate, inspect, and embeddings without texts."""

from __future__ import annotations

import json

import numpy as np

import cr2fast
from cr2fast import cli
from cr2fast.datasets import make_routing_problem
from testing.tables import write_folder


def test_a_router_with_features_from_fit_to_route(tmp_path, capsys):
    problem = make_routing_problem(n=600, d=16, models=3, seed=4)
    n = len(problem.table)
    texts = [f"How much is {i} + {i * i}?\nA. {i}\nB. 7" for i in range(n)]
    more = {"category": problem.table.categories, "hour": [i % 24 for i in range(n)]}
    write_folder(tmp_path, problem, text=texts, **more)
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

    np.save(tmp_path / "x.npy", problem.table.embeddings[:3])
    route = ["route", out, "--embeddings", str(tmp_path / "x.npy"), "--lam", "1"]
    assert cli.main(route) != 0
    told = capsys.readouterr().err
    assert "--embeddings: expected rows of 33 numbers, got embeddings only (16)" in told
    assert "--features none" in told
    assert cli.main([*fit, "--features", "words"]) != 0
    assert "expected a column 'words'" in capsys.readouterr().err

    short = ["fit", *data, "-o", out, "--teacher-epochs", "1", "--gate-epochs", "1"]
    named = ["--encoder-id", "some encoder"]
    for more, features in (
        (named, 16),
        ([], 0),
        ([*named, "--features", "none"], 0),
        ([*named, "--recipe", "paper"], 0),
        (["--features", "text"], 16),
    ):
        assert cli.main([*short, *more]) == 0
        assert ("16 features of the text" in capsys.readouterr().out) == bool(features)
        assert cr2fast.Router.load(out).dim == 16 + features
    assert cli.main(["calibrate", out, *data]) == 0
    assert cli.main(route) != 0
    told = capsys.readouterr().err
    for words in ("as fit does by default", "--text with --encoder", "--features none"):
        assert words in told
