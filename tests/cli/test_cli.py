"""The command line, as a person types it: every command, and errors that say what to do."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest

import cr2fast
from cr2fast import cli
from cr2fast.datasets import make_routing_problem
from testing.console import run
from testing.tables import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder on disk, made from a synthetic problem."""
    where = tmp_path_factory.mktemp("data")
    problem = make_routing_problem(n=900, d=16, models=3, seed=4)
    write_folder(where, problem, category=problem.table.categories)
    return where


EPOCHS = ["--teacher-epochs", "2", "--gate-epochs", "2"]
LAMS = ["--lam-range", "0.1,20"]


@pytest.fixture(scope="module")
def routed(folder, tmp_path_factory):
    """A router made by fit and calibrate."""
    path = tmp_path_factory.mktemp("cli") / "router.safetensors"
    assert cli.main(["fit", "--data", str(folder), "-o", str(path), *EPOCHS, *LAMS]) == 0
    assert cli.main(["calibrate", str(path), "--data", str(folder), "--alphas", "0.01,0.05"]) == 0
    return path


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_one_promise_for_the_whole_grid_and_the_papers_recipe(folder, tmp_path, capsys, precision):
    path = tmp_path / "router.safetensors"
    data = ["--data", str(folder)]
    paper = ["--recipe", "paper", "--precision", precision]
    assert cli.main(["fit", *data, "-o", str(path), *paper, *EPOCHS, *LAMS]) == 0
    said = capsys.readouterr().out
    assert re.search(r"cost weights 0.1 to 20: \S+ % of the queries are better off on the device at \S+, "
                     r"\S+ % at \S+", said), said  # fmt: skip
    assert cr2fast.Router.load(path).precision == precision
    grid = ["--alphas", "0.1,0.2", "--lams", "0.5,1"]
    assert cli.main(["calibrate", str(path), *data, *grid, "--simultaneous", "0.2"]) == 0
    router = cr2fast.Router.load(path)
    assert router.training["config"]["recipe"] == "paper"
    assert router.calibration["delta"] == 0.2
    assert "With probability at least 1 - 0.2" in capsys.readouterr().out
    code, out, _ = run(capsys, "inspect", path)
    assert code == 0
    assert f"precision    {precision}\n" in out
    assert cli.main(["calibrate", str(path), *data, *grid, "--simultaneous", "2"]) == 2
    assert "--simultaneous: expected a number in (0, 1)" in capsys.readouterr().err


def test_fit_calibrate_evaluate_agree_with_python(routed, folder, capsys):
    code, out, _ = run(capsys, "evaluate", routed, "--data", folder, "--alpha", 0.05, "--json")
    assert code == 0
    numbers = json.loads(out)
    from cr2fast.datasets import load_folder

    problem = load_folder(folder)
    expected = cr2fast.evaluate(
        cr2fast.Router.load(routed), problem.table.split((0.6, 0.2, 0.1, 0.1))[3]
    )
    np.testing.assert_array_equal(numbers["false_acceptances"], expected.false_acceptances)
    np.testing.assert_array_equal(numbers["cost"], expected.cost)


def test_evaluate_prints_a_table_and_plots(routed, folder, tmp_path, capsys):
    code, out, _ = run(capsys, "evaluate", routed, "--data", folder, "--plots", tmp_path / "p")
    assert code == 0
    assert "95 % interval" in out
    assert "void if the query mix" in out
    assert (tmp_path / "p" / "pareto.png").exists()
    page = tmp_path / "p" / "report.html"
    assert page.exists() == (find_spec("bokeh") is not None)
    # The page's budgets choose on the validation part, where there is one.
    assert not page.exists() or "90 validation queries" in page.read_text()


def test_route_decides_as_the_device_does(routed, folder, tmp_path, capsys):
    x = pl.read_parquet(folder / "queries.parquet")["embedding"].to_numpy()[:40]
    x = np.ascontiguousarray(x, dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    args = ("--lam", 1, "--alpha", 0.05, "--embeddings", tmp_path / "x.npy", "--n-input-tokens", 90)
    code, out, _ = run(capsys, "route", routed, *args, "--json")
    assert code == 0
    rows = json.loads(out)
    local = cr2fast.DeviceRouter.load(routed, 1.0, 0.05).route_batch(x)
    assert [r["local"] for r in rows] == local.tolist()
    assert all((r["place"] == "device") == r["local"] for r in rows)
    code, out, _ = run(capsys, "route", routed, *args)
    assert code == 0
    assert len(out.splitlines()) == 40


def test_inspect_says_what_is_inside(routed, capsys):
    code, out, _ = run(capsys, "inspect", routed)
    assert code == 0
    for words in ("device-s, edge-1, edge-2", "N = 180", "promise", "0.01 0.05"):
        assert words in out
    assert "void if the query mix" in out
    code, out, _ = run(capsys, "inspect", routed, "--json")
    thresholds = json.loads(out)["calibration"]["thresholds"]
    assert any(t == "accept all" for row in thresholds for t in row), "infinities are words"
    assert json.loads(out)["calibration"]["n"] == 180


def test_demo_on_a_folder(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CR2FAST_DATA", str(folder))
    code, out, _ = run(capsys, "demo", "--out", tmp_path / "demo", *EPOCHS)
    assert code == 0
    assert "predicted lengths, alpha = 0.01" in out
    assert "known lengths, alpha = 0.01" in out
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert names == {
        "router.safetensors",
        "report.json",
        "pareto.png",
        "risk.png",
        "local_rate.png",
        *(["report.html"] if find_spec("bokeh") else []),
    }
    assert str(folder) in json.loads((tmp_path / "demo" / "report.json").read_text())["source"]


def test_demo_without_data_says_so_plainly(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CR2FAST_DATA", raising=False)
    smaller = functools.partial(make_routing_problem, n=1500, d=32)
    monkeypatch.setattr("cr2fast.data.datasets.make_routing_problem", smaller)
    code, out, err = run(capsys, "demo", "--out", tmp_path, "--json", *EPOCHS)
    assert code == 0
    assert "synthetic problem" in err
    assert "say nothing of real models" in err
    result = json.loads(out)
    assert result["source"].startswith("SYNTHETIC")
    assert set(result["modes"]) == {"predicted", "known"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["inspect", "none.safetensors"], "No such file"),
        (["fit", "--data", "none"], "data: expected a folder, got none"),
        (["demo", "--data", "none"], "data: expected a folder"),
        (["evaluate", "ROUTER", "--data", "DATA", "--alpha", "0.3"], "alpha=0.3: expected one of"),
        (["calibrate", "ROUTER", "--data", "DATA", "--alphas", "0.001"], "infeasible with 180 calibration samples"),
        (["calibrate", "ROUTER", "--data", "DATA", "--lams", "99"], "trained range"),
        (["calibrate", "ROUTER", "--data", "DATA", "--split-seed", "5"], "disjoint from the training split"),
        (["evaluate", "ROUTER", "--data", "DATA", "--split", "0.5,0.5"], "expected three fractions"),
        (["route", "ROUTER", "--lam", "1.05", "--alpha", "0.05", "--embeddings", "GOOD"], "not on the calibrated grid"),
        (["route", "ROUTER", "--lam", "1", "--alpha", "0.05", "--embeddings", "TEXT"], "expected a .npy file"),
        (["route", "ROUTER", "--lam", "1", "--alpha", "0.05", "--embeddings", "WIDE"], r"expected shape \(N, 16\)"),
        (["route", "ROUTER", "--lam", "1", "--alpha", "0.05", "--embeddings", "DOUBLE"], "float64"),
        (["route", "ROUTER", "--lam", "1", "--alpha", "0.05", "--embeddings", "EMPTY"], "expected a .npy file"),
        (["route", "ROUTER", "--lam", "1", "--alpha", "0.05", "--embeddings", "ZIP"], "expected a .npy file"),
        (["route", "ROUTER", "--lam", "1", "--alpha", "0.05", "--embeddings", "FORGED"], "expected a .npy file"),
        (["fit", "--data", "DATA", "-o", "DATA"], "--out: expected a file that can be written"),
        (["route", "ROUTER", "--lam", "1", "--alpha", "0.05", "--embeddings", "GOOD", "--max-usd", "1"], "needs --text, or --n-input-tokens"),
        (["route", "ROUTER", "--lam", "1", "--alpha", "0.05", "--embeddings", "GOOD", "--n-input-tokens", "9", "--max-usd", "1"], "has prices of all models"),
        (["route", "ROUTER", "--lam", "1", "--alpha", "0.05", "--embeddings", "GOOD", "--rtt-s", "-1"], "--rtt-s: expected seconds"),
        (["fit", "--data", "DATA", "-o", "none/r.safetensors"], "--out: expected a file in an existing folder"),
        (["fit", "--data", "DATA", "--split-seed", "-1"], "seed: expected a whole number"),
        (["demo", "--seed", "-1"], "seed: expected a whole number"),
        (["demo", "--data", "DATA", "--alpha", "0.03"], "alpha=0.03: expected a level of"),
        (["demo", "--costs", "x.json"], "--costs needs --data DIR"),
        (["evaluate", "ROUTER", "--data", "DATA", "--deferred", "fallback"], "fallback: expected one of"),
    ],
)  # fmt: skip
def test_errors_name_what_is_wrong(args, words, routed, folder, tmp_path, capsys):
    np.save(tmp_path / "GOOD.npy", np.zeros((1, 16), np.float32))
    np.save(tmp_path / "WIDE.npy", np.zeros((1, 17), np.float32))
    np.save(tmp_path / "DOUBLE.npy", np.zeros((1, 16)))
    (tmp_path / "TEXT.npy").write_text("hello")
    (tmp_path / "EMPTY.npy").write_bytes(b"")
    (tmp_path / "ZIP.npy").write_bytes(b"PK\x03\x04")
    forged = (tmp_path / "GOOD.npy").read_bytes()
    header = (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 16), }".ljust(117)
        + b"\n"
    )
    (tmp_path / "FORGED.npy").write_bytes(forged[:8] + len(header).to_bytes(2, "little") + header)
    places = {"ROUTER": routed, "DATA": folder} | {
        n: tmp_path / f"{n}.npy"
        for n in ("GOOD", "WIDE", "DOUBLE", "TEXT", "EMPTY", "ZIP", "FORGED")
    }
    before = routed.read_bytes()
    code, _, err = run(capsys, *[places.get(a, a) for a in args])
    assert code == 2
    assert err.startswith(f"cr2fast {args[0]}: error: ")
    assert len(err.strip().splitlines()) == 1
    import re

    assert re.search(words, err)
    assert routed.read_bytes() == before


def test_a_pickle_in_disguise_is_not_opened(routed, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    code, _, err = run(
        capsys, "route", routed, "--lam", 1, "--alpha", 0.05, "--embeddings", tmp_path / "x.npy"
    )
    assert code == 2
    assert "expected a .npy file" in err


@pytest.mark.parametrize(
    "command", ["", "demo", "fit", "calibrate", "evaluate", "route", "inspect"]
)
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*([command] if command else []), "--help"])
    assert stop.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in {
        "": ["The usual order", "cr2fast calibrate router.safetensors", "Query ids are checked"],
        "demo": ["CR2FAST_DATA", "outcomes.parquet (query_id, model, correct"],
        "fit": ["*queries.parquet", "price queries while the gate learns"],
        "calibrate": ["below 1/(N+1)", "32 of those the router learned"],
        "evaluate": ["--fallback", "known"],
        "route": ["(N, d) or (d,) float32", "input tokens of each query"],
        "inspect": ["what it promises"],
    }[command]:
        assert words in out


def test_a_reader_that_has_enough_ends_it_quietly(routed, folder, tmp_path):
    x = pl.read_parquet(folder / "queries.parquet")["embedding"].to_numpy().astype(np.float32)
    np.save(tmp_path / "x.npy", np.repeat(x, 40, axis=0))
    command = f"{sys.executable} -m cr2fast route {routed} --lam 1 --alpha 0.05 --embeddings {tmp_path / 'x.npy'} | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 1


def test_it_runs_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "cr2fast", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == f"cr2fast {cr2fast.__version__}"


def test_route_says_an_infinite_threshold_in_words(folder, tmp_path, capsys):
    path = tmp_path / "router.safetensors"
    data = ["--data", folder]
    assert run(capsys, "fit", *data, "-o", path, *EPOCHS, *LAMS)[0] == 0
    grid = ["--alphas", "0.0001,0.9", "--lams", "1", "--on-infeasible", "defer"]
    assert run(capsys, "calibrate", path, *data, *grid)[0] == 0
    np.save(tmp_path / "x.npy", np.ones((1, 16), np.float32))
    for alpha, words in ((0.0001, "defer all"), (0.9, "accept all")):
        point = ["--lam", 1, "--alpha", alpha, "--embeddings", tmp_path / "x.npy", "--json"]
        code, out, _ = run(capsys, "route", path, *point)
        assert code == 0
        assert json.loads(out)[0]["threshold"] == words


def test_a_router_without_an_encoders_hash_says_so(routed, capsys):
    _, out, _ = run(capsys, "inspect", routed)
    assert "compared by name only" in out


def test_the_demo_offers_a_download_and_never_takes_one(monkeypatch, tmp_path, capsys, folder):
    from cr2fast.cli import demo, inputs
    from cr2fast.data import mmlu_pro

    monkeypatch.delenv("CR2FAST_DATA", raising=False)
    fetched = []
    monkeypatch.setattr(mmlu_pro, "fetch_mmlu_pro", lambda *a: fetched.append(a))
    monkeypatch.setattr(inputs, "encoder", lambda name: name)

    class StopError(Exception):
        pass

    def stop(problem, *args, source, **options):
        raise StopError(source)

    monkeypatch.setattr(demo, "run", stop)
    with pytest.raises(StopError, match="SYNTHETIC"):
        cli.main(["demo", "--out", str(tmp_path)])
    assert "cr2fast demo --download" in capsys.readouterr().out
    assert not fetched
    with pytest.raises(StopError, match="costs ESTIMATED"):
        cli.main(["demo", "--download", "--out", str(tmp_path)])
    assert fetched == [("minilm",)]
    code, _, err = run(capsys, "demo", "--download", "--data", folder)
    assert code == 2
    assert "--download is for a demo without data" in err


def test_the_estimated_costs_are_of_the_fetched_models():
    from cr2fast.data.mmlu_pro import SHA256
    from cr2fast.datasets import estimated_costs

    costs = estimated_costs()
    assert costs.models == list(SHA256)
    assert costs.source == "estimated"
