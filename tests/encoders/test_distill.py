"""Distilling: the regression against its normal equations, options, other tokenizers, the command."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

import cr2fast
from cr2fast import cli
from cr2fast.datasets import make_routing_problem
from cr2fast.encoders.distill import bert_vocabulary, distill, fit_rows
from testing import oracle
from testing.tables import write_folder
from testing.texts import TEXTS

WORDS = [
    "planet",
    "kidney",
    "hamlet",
    "integral",
    "voltage",
    "treaty",
    "gene",
    "tax",
    "poem",
    "orbit",
]


@pytest.fixture(scope="module")
def encoder():
    """MiniLM, but for its hidden states: 30,522 of the real ones take a minute.

    A token has one hidden state by itself and another in a sentence, so there is something to learn.
    """
    encoder = cr2fast.Encoder.load("minilm")
    table = np.random.default_rng(0).normal(size=(2, 30_522, encoder.dim))
    encoder.mean_hidden = lambda tokens: table[int(len(tokens) > 3), list(tokens)].mean(axis=0)
    return encoder


def sentences(n):
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, 5)) + f" {i}" for i in range(n)]


def test_the_regression_solves_its_normal_equations():
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 40, rng.integers(1, 12)) for _ in range(25)]
    vectors, targets = rng.normal(size=(60, 7)), rng.normal(size=(25, 7))
    weights = rng.uniform(0.1, 1, 60)
    got = fit_rows(
        vectors.astype(np.float32),
        weights.astype(np.float32),
        tokens,
        targets.astype(np.float32),
        0.3,
    )
    expected = oracle.ridge_rows(vectors, weights, tokens, targets, 0.3)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.slow
def test_a_regression_brings_embeddings_near_the_encoders(encoder):
    texts = sentences(300)
    plain = distill(encoder, progress=False)
    fitted = distill(encoder, texts[:200], progress=False)
    held_out = encoder.encode(texts[200:])
    cosine = [(m.encode(texts[200:]) * held_out).sum(axis=1).mean() for m in (plain, fitted)]
    assert cosine[0] < 0.3 < 0.8 < cosine[1]
    assert fitted.info != plain.info
    assert fitted.source == encoder.info
    assert json.loads(fitted.record)["texts"] == 200
    again = distill(encoder, texts[:200], progress=False, threads=1)
    np.testing.assert_allclose(again.encode(TEXTS), fitted.encode(TEXTS), atol=0.02)
    for text in TEXTS:
        assert fitted.tokens(text) == encoder.tokens(text)


@pytest.mark.slow
def test_fewer_numbers_keep_the_principal_axes(encoder):
    texts = sentences(50)
    full, some = (distill(encoder, texts, dim=d, progress=False) for d in (None, 100))
    assert (full.dim, some.dim) == (384, 100)
    a, b = full.encode(texts), some.encode(texts)
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dim": 0}, "dim: expected a whole number, 1 to 384, got 0"),
        ({"dim": 500}, "dim"),
        ({"sif": -1}, "sif: expected a positive number"),
        ({"ridge": float("nan")}, "ridge: expected a positive number"),
        ({"texts": "one text"}, "texts: expected a sequence of strings"),
        ({"texts": ["a", 3]}, "texts"),
    ],
)
def test_bad_options_are_named(encoder, options, words):
    with pytest.raises(cr2fast.Cr2Error, match=words):
        distill(encoder, **{"progress": False} | options)
    with pytest.raises(TypeError, match="encoder: expected an Encoder, got str"):
        distill("minilm")


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("normalizer", {"lowercase": False}, "another normalizer"),
        ("normalizer", {"strip_accents": False}, "another normalizer"),
        ("pre_tokenizer", {"type": "Whitespace"}, "another pre_tokenizer"),
        ("model", {"type": "BPE"}, "another model"),
        ("model", {"vocab": {"a": 0, "b": 2}}, "numbered from 0"),
    ],
)
def test_other_tokenizers_are_refused(encoder, part, change, words):
    document = copy.deepcopy(encoder.tokenizer_json)
    document[part].update(change)
    with pytest.raises(cr2fast.Cr2Error, match=words):
        bert_vocabulary(document)


@pytest.mark.slow
def test_from_a_shell_distil_fit_calibrate_and_route(encoder, tmp_path, capsys, monkeypatch):
    problem = make_routing_problem(n=900, d=16, models=3, seed=4)
    write_folder(tmp_path, problem, text=sentences(900), category=problem.table.categories)
    monkeypatch.setattr(cr2fast.Encoder, "load", lambda *_: encoder)
    static, router = tmp_path / "static.safetensors", tmp_path / "router.safetensors"

    def run(*args):
        code = cli.main([str(a) for a in args])
        return code, *capsys.readouterr()

    data = ["--data", tmp_path]
    code, out, err = run("distill-encoder", *data, "-o", static, "--dim", 24, "--json")
    assert code == 0, err
    made = cr2fast.StaticEncoder.load(static)
    said = json.loads(out)
    assert said["encoder"] == made.info._asdict()
    assert said["record"]["texts"] == 540
    table = ["--encoder", static, "--embed"]
    epochs = ["--teacher-epochs", 1, "--gate-epochs", 1, "--lam-range", "0.1,20"]
    assert run("fit", *data, *table, "-o", router, *epochs)[0] == 0
    assert cr2fast.Router.load(router).encoder == made.info
    grid = ["--alphas", "0.05", "--lams", "1"]
    assert run("calibrate", router, *data, *table, *grid)[0] == 0
    point = ["--lam", 1, "--alpha", 0.05]
    prompt = ["--text", "a planet", "--text", "a poem", "--encoder", static]
    code, out, err = run("route", router, *point, *prompt, "--json")
    assert code == 0, err
    device = cr2fast.DeviceRouter.load(router, 1.0, 0.05, made.info)
    decisions = [device.route_text(p, made) for p in ("a planet", "a poem")]
    rows = json.loads(out)
    assert [r["margin"] for r in rows] == [d.margin for d in decisions]
    two = cr2fast.TwoStage.load(router, 1.0, 0.05)
    state = cr2fast.LinkState(20e6, 80e6, 0.018)
    for row, text in zip(rows, ("a planet", "a poem"), strict=True):
        choice = two.route_text(text, made, state)
        assert (row["model"], row["cost"], row["n_input_tokens"]) == (choice.model, choice.cost, 2)
    code, out, err = run("route", router, *point, *prompt, "--max-latency-s", 0)
    assert code == 2
    assert "budget: expected limits that some model meets, got --max-latency-s 0" in err
    # The table's embeddings are not this encoder's; a lone option says what it lacks.
    code, _, err = run("fit", *data, "--encoder", static, "-o", router)
    assert code == 2
    assert "pass --embed" in err
    code, _, err = run("fit", *data, "--embed", "-o", router)
    assert code == 2
    assert "--embed needs --encoder SOURCE" in err
    code, _, err = run("route", router, *point, "--text", "a")
    assert code == 2
    assert "--encoder SOURCE" in err
