"""A data folder with texts and no embeddings: every command makes what it needs of them."""

from __future__ import annotations

import json

import polars as pl
import pytest

import cr2fast
from cr2fast.cli import inputs
from cr2fast.datasets import load_folder, make_routing_problem
from testing.console import run
from testing.encoders import Known

EPOCHS = ["--teacher-epochs", "2", "--gate-epochs", "2"]


@pytest.fixture(scope="module", params=["csv", "jsonl", "parquet"])
def folder(request, tmp_path_factory):
    """Queries of ids and texts only; whoever reads them must embed and count."""
    where = tmp_path_factory.mktemp("texts")
    problem = make_routing_problem(n=500, d=16, models=3, seed=4)
    t = problem.table
    texts = [f"Text number {i}, please." for i in range(len(t))]
    queries = pl.DataFrame({"query_id": t.query_ids, "text": texts})
    outcomes = pl.concat(
        pl.DataFrame(
            {
                "query_id": t.query_ids,
                "model": m,
                "correct": t.correct[:, k],
                "n_output_tokens": t.n_output_tokens[:, k],
            }
        )
        for k, m in enumerate(t.models)
    )
    for name, frame in (("queries", queries), ("outcomes", outcomes)):
        path = where / f"{name}.{request.param}"
        {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[
            request.param
        ](path)
    (where / "cost_table.json").write_text(problem.costs.to_json())
    return where, Known(texts, t.embeddings)


@pytest.fixture
def known(folder, monkeypatch, tmp_path):
    encoder = folder[1]
    encoder.seen.clear()
    monkeypatch.setattr(inputs, "encoder", lambda source, router=None: encoder)
    monkeypatch.setenv("CR2FAST_CACHE", str(tmp_path / "cache"))
    return encoder


@pytest.mark.parametrize("more", [(), ("--embed",)])
def test_fit_calibrate_and_evaluate_embed_on_the_way(folder, known, more, tmp_path, capsys):
    path, data = tmp_path / "r.safetensors", ("--data", folder[0], "--encoder", "known", *more)
    for words in (("fit", *data, "-o", path, *EPOCHS), ("calibrate", path, *data)):
        code, _, err = run(capsys, *words)
        assert code == 0, err
    code, out, err = run(capsys, "evaluate", path, *data, "--json")
    assert code == 0, err
    assert json.loads(out)["n"] == 50
    assert sorted(known.seen) == sorted(known.places), "each text was embedded once"
    assert cr2fast.Router.load(path).encoder == known.info


def test_without_an_encoder_the_error_names_the_flag(folder, tmp_path, capsys):
    code, _, err = run(capsys, "fit", "--data", folder[0], "-o", tmp_path / "r.safetensors")
    assert code == 2
    assert "column for embedding" in err
    assert "pass --encoder SOURCE" in err


def test_distilling_needs_texts_only(folder, known, capsys, monkeypatch, tmp_path):
    said = []

    class Made:
        info, record = known.info, "{}"

        def save(self, path):
            path.write_bytes(b"x")

    monkeypatch.setattr(
        "cr2fast.encoders.distill.distill", lambda encoder, texts, **_: said.extend(texts) or Made()
    )
    out = tmp_path / "s.safetensors"
    code, _, err = run(capsys, "distill-encoder", "--data", folder[0], "-o", out)
    assert code == 0, err
    assert known.seen == []
    table = load_folder(folder[0], None, known, progress=False).table
    assert said == table.split((0.6, 0.2, 0.1, 0.1))[0].extra["text"]
