"""From a log of calls to a routed prompt: the commands, and what they say of bad logs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import cr2fast
from cr2fast import cli
from cr2fast.cli import inputs
from cr2fast.datasets import make_routing_problem
from testing.console import run
from testing.encoders import Known

EPOCHS = ["--teacher-epochs", "2", "--gate-epochs", "2"]
PRICES = {"device-s": 1e-7, "edge-1": 1e-6, "edge-2": 5e-6}


@pytest.fixture(scope="module")
def table():
    found = make_routing_problem(n=900, d=16, models=3, seed=4).table
    found.extra["text"] = [f"Prompt number {i}, please." for i in range(len(found))]
    return found


@pytest.fixture(scope="module")
def log(table, tmp_path_factory):
    """A log of the synthetic problem: prompts, scores, tokens, dollars; no embeddings."""
    path = tmp_path_factory.mktemp("log") / "calls.jsonl"
    rows = [
        {
            "request": f"r{i}",
            "messages": [{"role": "user", "content": text}],
            "model": m,
            "score": float(table.correct[i, k]),
            "prompt_tokens": int(table.n_input_tokens[i]),
            "completion_tokens": int(table.n_output_tokens[i, k]),
            "usd": PRICES[m] * int(table.n_input_tokens[i] + 3 * table.n_output_tokens[i, k]),
            "seconds": 0.1 + 0.01 * (k + 1) * int(table.n_output_tokens[i, k]),
        }
        for i, text in enumerate(table.extra["text"])
        for k, m in enumerate(table.models)
    ]
    rows.append({"request": "bad", "model": "edge-1", "error": "timeout"})
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def known(table, monkeypatch, tmp_path):
    encoder = Known(table.extra["text"], table.embeddings)
    monkeypatch.setattr(inputs, "encoder", lambda source, router=None: encoder)
    monkeypatch.setenv("CR2FAST_CACHE", str(tmp_path / "cache"))
    return encoder


def test_the_commands_cut_one_log_into_the_same_disjoint_parts(log, known, tmp_path, capsys):
    path = tmp_path / "router.safetensors"
    source = ("--log", log, "--encoder", "known")
    code, out, err = run(capsys, "fit", *source, "-o", path, *EPOCHS)
    assert code == 0, err
    assert "--local not given: device-s, whose mean score is the lowest" in out
    assert "1 failed calls left out" in out
    assert "shares: price 1" in out
    assert f"next: cr2fast calibrate {path} --log {log} --encoder known" in out
    assert len(known.seen) == 900
    router = cr2fast.Router.load(path)
    assert router.models == ("device-s", "edge-1", "edge-2")
    code, out, err = run(capsys, "calibrate", path, *source)
    assert code == 0, err
    code, out, err = run(capsys, "evaluate", path, *source, "--json")
    assert code == 0, err
    assert len(known.seen) == 900, "what was embedded before is in the cache"
    e = json.loads(out)
    t = cr2fast.RoutingTable.read_log(log, local="device-s", encoder=known, progress=False)
    parts = t.split_by_content()
    assert router.training["n_train"] + router.training["n_holdout"] == len(parts[0])
    assert cr2fast.Router.load(path).calibration["n"] == len(parts[1])
    assert e["n"] == len(parts[3])
    # The parts of a log that has grown, in another order, hold what they held.
    grown = t.take(np.random.default_rng(0).permutation(len(t))[:700]).split_by_content()
    for part, before in zip(grown, parts, strict=True):
        assert set(part.query_ids) <= set(before.query_ids)
    # Another split is caught.
    code, _, err = run(capsys, "calibrate", path, *source, "--split-seed", 9)
    assert code == 2
    assert "disjoint from the training split" in err


def test_embeddings_of_the_log_are_used_checked_or_made_anew(log, known, table, tmp_path, capsys):
    places = {t: i for i, t in enumerate(table.extra["text"])}

    def with_embedding(row):
        if "messages" not in row:
            return row
        x = table.embeddings[places[row["messages"][0]["content"]]]
        return row | {"embedding": (-x).tolist()}

    path = rewritten(log, tmp_path, with_embedding)
    fit = ("fit", "--log", path, "-o", tmp_path / "r.safetensors", *EPOCHS)
    code, _, err = run(capsys, *fit, "--encoder", "known")
    assert code == 2
    assert "--encoder: expected embeddings that known gives the texts" in err
    code, _, err = run(capsys, *fit, "--encoder", "known", "--embed")
    assert code == 0, err
    assert cr2fast.Router.load(tmp_path / "r.safetensors").encoder == known.info
    code, _, err = run(capsys, *fit)
    assert code == 0, err
    assert cr2fast.Router.load(tmp_path / "r.safetensors").encoder.id == "unknown"


def test_queries_alone_calibrate(log, known, table, tmp_path, capsys):
    path = tmp_path / "router.safetensors"
    assert run(capsys, "fit", "--log", log, "--encoder", "known", "-o", path, *EPOCHS)[0] == 0
    parts = cr2fast.RoutingTable.read_log(
        log, local="device-s", encoder=known, progress=False
    ).split_by_content()
    traffic = tmp_path / "traffic.csv"
    pl.DataFrame(
        {"prompt": parts[1].extra["text"], "prompt_tokens": parts[1].n_input_tokens}
    ).write_csv(traffic)
    grid = ("--alphas", "0.05,0.1", "--lams", "0.5,1")
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    args = ("calibrate", path, *grid)
    code, _, err = run(capsys, *args, "--log", log, "--encoder", "known", "-o", one)
    assert code == 0, err
    code, _, err = run(capsys, *args, "--queries", traffic, "--encoder", "known", "-o", other)
    assert code == 0, err
    a, b = (cr2fast.Router.load(p).calibration for p in (one, other))
    assert a["thresholds"].tobytes() == b["thresholds"].tobytes()
    code, _, err = run(
        capsys, *args, "--queries", traffic, "--encoder", "known", "--judge", "outcomes"
    )
    assert code == 2
    assert "--judge outcomes needs recorded answers" in err
    # All of it was in training: nothing advises what was already done.
    pl.DataFrame({"prompt": parts[0].extra["text"]}).write_csv(traffic)
    code, _, err = run(
        capsys, *args, "--queries", traffic, "--encoder", "known", "--overlap", "drop"
    )
    assert code == 2
    assert "got" in err
    assert "drop" not in err


def test_a_static_encoder_is_distilled_on_the_logs_training_part(log, known, capsys, monkeypatch):
    said = []

    class Made:
        info = known.info
        record = "{}"

        def save(self, path):
            path.write_bytes(b"x")

    def distill(encoder, texts, **options):
        said.extend(texts)
        return Made()

    monkeypatch.setattr("cr2fast.encoders.distill.distill", distill)
    code, out, err = run(
        capsys, "distill-encoder", "--log", log, "-o", log.parent / "s.safetensors"
    )
    assert code == 0, err
    t = cr2fast.RoutingTable.read_log(log, local="device-s", encoder=known, progress=False)
    assert said == t.split_by_content()[0].extra["text"]
    assert f"next: cr2fast fit --log {log} --encoder {log.parent / 's.safetensors'} --embed" in out
    assert known.seen == t.extra["text"], "distilling embeds nothing of the log"


def test_costs_of_a_log_and_of_prices(log, tmp_path, capsys):
    out = tmp_path / "costs.json"
    code, text, err = run(
        capsys, "costs", "--log", log, "-o", out, "--shares", "price=0.5", "--shares", "latency=0.5"
    )
    assert code == 0, err
    costs = cr2fast.CostTable.read(out)
    assert costs.models == list(PRICES)
    assert costs.shares == {"latency": 0.5, "energy": 0.0, "price": 0.5}
    assert "edge-1: 1 failed calls left out" in text
    code, text, err = run(
        capsys, "costs", "--price", "phone=0,0,0.0001", "--price", "gpt-4o=2.5,10", "-o", out
    )
    assert code == 0, err
    np.testing.assert_allclose(
        cr2fast.CostTable.read(out).usd([100], [[10, 20]]), [[1e-4, 4.5e-4]], rtol=1e-14
    )
    (tmp_path / "p.json").write_text(
        json.dumps({m: {"usd_per_output_token": p} for m, p in PRICES.items()})
    )
    code, text, err = run(
        capsys, "costs", "--prices", tmp_path / "p.json", "-o", out, "--reference", "edge-1"
    )
    assert code == 0, err
    assert "the cost of edge-1 is 1" in text


WITH = ("--encoder", "known")


def rewritten(log, folder, change):
    path = folder / "changed.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(r)) + "\n" for r in rows))
    return path


@pytest.mark.parametrize(
    ("change", "args", "words"),
    [
        (lambda r: {k: v for k, v in r.items() if k != "score"}, WITH, r"column for score, tried \['score', .*pass --column score=<its name>"),
        (lambda r: r | {"model": "edge-1"}, WITH, r"at least two models, .* got only of \['edge-1'\]"),
        (lambda r: r | {"score": 7}, WITH, r"log.score: .*grades in \[0, 1\], got 7"),
        (lambda r: {k: v for k, v in r.items() if k not in ("usd", "seconds")}, WITH, r"expected dollars \(tried \['usd'.*seconds.*neither for"),
        (lambda r: r | {"usd": -0.1}, WITH, "log.usd: expected numbers, at least 0, got -0.1"),
        (lambda r: {k: v for k, v in r.items() if k != "prompt_tokens"}, WITH, "a column for prompt_tokens, tried"),
        (lambda r: r | {"prompt_tokens": None}, WITH, "prompt_tokens and completion_tokens of every call with dollars"),
        (lambda r: r, (*WITH, "--local", "tiny"), r"got none of \['tiny'\]"),
        (lambda r: r, (*WITH, "--edge", "device-s"), "--local, --edge: expected a local and"),
        (lambda r: r, (*WITH, "--column", "scores=score"), "--column: expected some of .* nearest: score"),
        (lambda r: r, ("--embed",), "--embed needs --encoder"),
        (lambda r: r, (*WITH, "--split", "0.5,0.6"), "--split: expected three fractions, or four"),
        (lambda r: r, (*WITH, "--split", "0.5,0.5,0.5"), "--split: expected positive numbers that sum to 1"),
        (lambda r: r, (*WITH, "--cache", "c", "--no-cache"), "expected one of them, got both"),
        (lambda r: r, ("--encoder-id", "x"), "--encoder-id is for --data DIR"),
        (lambda r: r, (), "column for embedding, .*pass --encoder SOURCE"),
    ],
)  # fmt: skip
def test_bad_logs_are_named_in_the_words_of_the_flags(
    log, known, tmp_path, capsys, change, args, words
):
    path = rewritten(log, tmp_path, change)
    code, _, err = run(
        capsys, "fit", "--log", path, "-o", tmp_path / "r.safetensors", *EPOCHS, *args
    )
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert re.search(words, last), last
    assert "encoder=cr2fast" not in last
    assert len(last) < 1600


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--price", "a=1,2"), "--price: expected the device's model and at least one edge model"),
        (("--price", "a=1,2", "--price", "a=1,2"), "each name once, got 'a' again"),
        (("--price", "a=1,2", "--price", "b=1,2", "--shares", "price=1"), "--shares, --local, --edge, --column are for --log"),
    ],
)  # fmt: skip
def test_bad_prices_are_named(tmp_path, capsys, args, words):
    code, _, err = run(capsys, "costs", "-o", tmp_path / "c.json", *args)
    assert code == 2
    assert words in err


@pytest.mark.parametrize("text", ["a", "a=1", "=1,2", "a=1,2,3,4", "a=x,y", "a=-1,2", "a=nan,1"])
def test_what_is_no_price_is_refused(tmp_path, capsys, text):
    with pytest.raises(SystemExit):
        cli.main(["costs", "-o", str(tmp_path / "c.json"), "--price", text])
    assert "--price: " in capsys.readouterr().err


def test_the_sample_log_becomes_a_router(data_dir, tmp_path, capsys):
    """With MiniLM: embeddings are made on the way (minutes at most), once."""
    path = tmp_path / "router.safetensors"
    source = ("--log", data_dir / "log_sample.jsonl", "--encoder", "minilm")
    code, out, err = run(capsys, "fit", *source, "-o", path, *EPOCHS)
    assert code == 0, err
    assert "--local not given: llama3.1-8b" in out
    code, out, err = run(capsys, "calibrate", path, "--log", data_dir / "log_sample.jsonl")
    assert code == 0, err
    code, out, err = run(capsys, "evaluate", path, *source, "--json")
    assert code == 0, err
    e = json.loads(out)
    assert np.isfinite(e["usd"]).all()
    lam = cr2fast.Router.load(path).calibration["lams"][4]
    code, out, err = run(
        capsys,
        "route",
        path,
        "--lam",
        lam,
        "--encoder",
        "minilm",
        "--text",
        "What is 2 + 2?",
        "--json",
    )
    assert code == 0, err
    (row,) = json.loads(out)
    assert row["model"] in ("llama3.1-8b", "gpt-4o-mini", "gpt-4o")
    assert row["usd"] > 0


def four_commands(log, local, encoder, text, accuracy="0.9"):
    """The commands of docs/tutorials/route-my-prompts.md, for another log."""
    page = Path(__file__).parents[2] / "docs" / "tutorials" / "route-my-prompts.md"
    block = next(b for b in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S) if "choose" in b)
    changed = {"calls.jsonl": str(log), "phone-1b": local, "minilm": encoder, "0.9": accuracy}
    commands = [shlex.split(line)[1:] for line in block.strip().splitlines()]
    assert [c[0] for c in commands] == ["fit", "calibrate", "choose", "route"]
    commands[3][-1] = text
    return [[changed.get(word, word) for word in c] for c in commands]


def test_four_commands_from_a_log_to_a_routed_prompt(log, known, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = list(known.places)[5]
    for words in four_commands(log, "device-s", "known", text, "0.5"):
        more = (
            EPOCHS if words[0] == "fit" else ["--encoder", "known"] if words[0] != "route" else []
        )
        code, out, err = run(capsys, *words, *more)
        assert code == 0, err
    assert re.search(r"^0\t(local|edge-1|edge-2)\tmargin", out)
    point = json.loads((tmp_path / "point.json").read_text())
    parts = cr2fast.RoutingTable.read_log(
        log, local="device-s", encoder=known, progress=False
    ).split_by_content()
    assert point["n"] == len(parts[2]), "the validation part chooses"
    assert len(set(known.seen)) == 900


def test_four_commands_over_the_sample(data_dir, tmp_path, capsys, monkeypatch):
    """With MiniLM, as the how-to has them."""
    monkeypatch.chdir(tmp_path)
    log = data_dir / "log_sample.jsonl"
    for words in four_commands(log, "llama3.1-8b", "minilm", "What is 2 + 2?"):
        code, out, err = run(capsys, *words)
        assert code == 0, err
        if words[0] == "choose":
            assert "accuracy" in out
    assert re.search(r"^0\t(local|gpt-4o-mini|gpt-4o)\tmargin", out)
