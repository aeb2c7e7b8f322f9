"""Features at the command line: fit, calibrate, evaluate, inspect, and embeddings without texts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

import cr2fast
from cr2fast import cli
from cr2fast.datasets import make_routing_problem
from testing.letters import letters
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
        out_ = capsys.readouterr().out
        assert ("16 features of the text" in out_) == bool(features)
        # What fit does by default is said where nothing else was asked for.
        assert ("as fit does by default" in out_) == (more == named)
        assert cr2fast.Router.load(out).dim == 16 + features
    assert cli.main(["calibrate", out, *data]) == 0
    assert cli.main(route) != 0
    told = capsys.readouterr().err
    for words in ("16 features of the text; use", "--text with --encoder", "--features none"):
        assert words in told


def test_prompts_that_lack_are_said_and_embeddings_are_looked_at(tmp_path, capsys):
    encoder = letters(16)
    encoder.save(tmp_path / "letters.safetensors")
    made = make_routing_problem(n=600, d=16, models=3, seed=4)
    texts = [f"how much is {'abcdefgh'[i % 8] * (1 + i % 30)} {i}" for i in range(600)]
    problem = replace(made, table=replace(made.table, embeddings=encoder.encode(texts)))
    some = [None if i % 50 == 0 else t for i, t in enumerate(texts)]
    write_folder(tmp_path, problem, text=some)
    data = ["--data", str(tmp_path), "--encoder", str(tmp_path / "letters.safetensors")]
    fit = ["fit", *data, "-o", str(tmp_path / "r"), "--teacher-epochs", "1", "--gate-epochs", "1"]
    assert cli.main(fit) == 0
    told = capsys.readouterr().out
    assert "looks at embeddings only: " in told
    assert "training queries have no text ('synthetic/4/" in told
    router = cr2fast.Router.load(tmp_path / "r")
    assert (router.dim, router.encoder) == (16, encoder.info)
    assert cli.main(["calibrate", str(tmp_path / "r"), *data]) == 0
    assert cli.main(["evaluate", str(tmp_path / "r"), *data]) == 0
    # As in Python.
    train = cr2fast.datasets.load_folder(tmp_path, encoder=encoder).table.split(seed=0)[0]
    quick = {"teacher_epochs": 1, "gate_epochs": 1, "progress": False}
    assert cr2fast.fit(train, problem.costs, **quick).features is None
    capsys.readouterr()
    # Asked for, texts must be there: which lack, and what to do.
    assert cli.main([*fit, "--features", "text"]) == 2
    told = capsys.readouterr().err
    assert "--features: expected a column 'text' with the text of every query, got none for" in told
    assert "in all)" in told
    assert "features=" not in told
    assert cli.main([*fit, "--embed"]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'queries.parquet'}: queries: expected no nulls" in told
    assert "synthetic/4/0, " in told or "'synthetic/4/0'" in told
    assert "leave them out of the file" in told
    assert "incomplete" not in told
    # Texts of other rows are no such texts.
    write_folder(tmp_path, problem, text=[*texts[1:], texts[0]])
    assert cli.main(fit) == 2
    told = capsys.readouterr().err
    assert "--encoder: expected embeddings that letters gives the texts of their rows" in told
    assert "pass --embed to embed the texts anew, or --encoder-id NAME" in told
