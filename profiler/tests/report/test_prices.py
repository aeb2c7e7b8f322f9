"""Dollars: cost_table/2 where it is needed, /1 elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fakes.virtual import World
from runs import SMALL, run

from cr2fast_profiler.analysis import profile_of
from cr2fast_profiler.cli import main
from cr2fast_profiler.errors import TableError
from cr2fast_profiler.report.prices import parse_price, parse_prices


@pytest.fixture(scope="module")
def device(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    run(World(), out, grid=SMALL, most_rounds=3)
    profile_of(out)
    return out


def made(device: Path, out: Path, *arguments: str) -> dict:
    asked = ["table", "--device", f"{device}=small", "-o", str(out), *arguments]
    assert main(asked) == 0
    return json.loads(out.read_text())


def test_prices_alone_need_no_latency_and_no_link(device, tmp_path: Path, capsys) -> None:
    prices = ["--price", "small=0,0", "--price", "gpt=2.5,10,0.001", "--link", "none"]
    weights = ["--price-weight", "1", "--energy-weight", "0"]
    table = made(device, tmp_path / "t.json", "--cloud", "gpt", *prices, *weights)
    assert table["schema"] == "cr2fast.cost_table/2"
    assert table["shares"] == {"latency": 0.0, "energy": 0.0, "price": 1.0}
    assert table["link"] == {"kind": "none"}
    assert "weights" not in table
    small, gpt = table["models"]
    assert (gpt["tier"], gpt["beta_dec_s"], gpt["phi_dec"]) == ("cloud", None, None)
    assert gpt["usd_per_input_token"] == pytest.approx(2.5e-6)
    assert gpt["usd_per_output_token"] == pytest.approx(1e-5)
    assert gpt["usd_per_request"] == 0.001
    assert small["usd_per_output_token"] == 0.0
    assert "gpt: latency and energy were not measured" in capsys.readouterr().out


def test_a_table_without_prices_stays_at_1(device, tmp_path: Path) -> None:
    shannon = {"schema": "cr2fast.cost_table/1", "link": {"kind": "shannon", "rtt_s": 0.02}}
    (tmp_path / "link.json").write_text(json.dumps(shannon))
    link = ["--link", str(tmp_path / "link.json"), "--energy-weight", "0"]
    table = made(device, tmp_path / "t.json", "--edge", f"{device}=large", *link)
    assert table["schema"] == "cr2fast.cost_table/1"
    assert table["weights"] == {"latency": 1.0, "energy": 0.0}
    assert "shares" not in table
    assert "usd_per_input_token" not in table["models"][0]


def test_latency_and_price_share_the_cost(device, tmp_path: Path) -> None:
    prices = ["--price", "small=0,0", "--price", "large=1,2", "--link", "none"]
    asked = ["--cloud", f"{device}=large", *prices, "--energy-weight", "0"]
    table = made(device, tmp_path / "t.json", *asked)
    assert table["shares"] == {"latency": 0.5, "energy": 0.0, "price": 0.5}
    assert table["source"] == "measured"
    assert table["normalizers"]["D0_usd"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cloud", "gpt", "--price", "gpt=1,2", "--energy-weight", "0"], "nobody measured gpt"),
        (["--cloud", "x", "--price", "gpt=1,2"], "run.json"),
        (["--edge", "DEVICE=b", "--price", "b=1,2", "--energy-weight", "0"], "small has none"),
        (
            ["--edge", "DEVICE=b", "--price", "c=1,2", "--energy-weight", "0"],
            "no model is called c",
        ),
        (["--energy-weight", "0"], "one edge or cloud model"),
        (["--edge", "DEVICE=b", "--energy-weight", "0.5"], "not known"),
        (["--cloud", "gpt", "--price", "gpt=1"], "dollars per million"),
    ],
)
def test_tables_that_cannot_be(device, tmp_path: Path, arguments, words, capsys) -> None:
    arguments = [a.replace("DEVICE", str(device)) for a in arguments]
    out = tmp_path / "t.json"
    asked = ["table", "--device", f"{device}=small", "--link", "none", "-o", str(out), *arguments]
    assert main(asked) == 1
    assert words in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "text", ["m", "m=", "=1,2", "m=1", "m=1,2,3,4", "m=a,b", "m=-1,2", "m=nan,1"]
)
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(TableError, match="dollars per million"):
        parse_price(text)
    with pytest.raises(TableError, match="twice"):
        parse_prices(["m=1,2", "m=1,2"])


def calls(n: int = 600, seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    l_in, l_out = rng.integers(50, 2000, n), rng.integers(1, 300, n)
    seconds = (0.3 + 2e-4 * l_in + 0.012 * l_out) * np.exp(0.05 * rng.normal(size=n))
    seconds[rng.random(n) < 0.1] *= 3
    usd = 2.5e-6 * l_in + 1e-5 * l_out
    return pl.DataFrame(
        {"model": "gpt", "prompt_tokens": l_in, "completion_tokens": l_out, "seconds": seconds}
    ).with_columns(usd=pl.Series(usd), error=pl.lit(None, pl.String))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "arrow"])
def test_a_log_gives_tau0_and_beta_and_says_what_it_cannot(tmp_path, suffix, capsys) -> None:
    frame, path = calls(), tmp_path / f"log.{suffix}"
    write = {"jsonl": "write_ndjson", "csv": "write_csv", "parquet": "write_parquet"}
    getattr(frame, write.get(suffix, "write_ipc"))(path)
    assert main(["log", str(path), "--out", str(tmp_path / "fits")]) == 0
    said = capsys.readouterr().out
    assert "cannot tell TTFT from decode" in said
    assert "--price gpt=2.5,10" in said
    fit = profile_of(tmp_path / "fits" / "gpt").latency
    assert fit.beta_dec_s == pytest.approx(0.012, rel=0.03)
    assert fit.beta_pre_s == pytest.approx(2e-4, rel=0.08)
    assert fit.tau0_s == pytest.approx(0.3, rel=0.1)
    for name, true in (("tau0_s", 0.3), ("beta_pre_s", 2e-4), ("beta_dec_s", 0.012)):
        low, high = fit.intervals[name]
        assert low <= true <= high
    assert fit.served.outliers == pytest.approx(0.1, abs=0.03)


def test_a_logs_fit_becomes_a_cloud_model(device, tmp_path: Path) -> None:
    calls().write_parquet(tmp_path / "log.parquet")
    assert main(["log", str(tmp_path / "log.parquet"), "--out", str(tmp_path / "fits")]) == 0
    prices = ["--price", "small=0,0", "--price", "gpt=2.5,10", "--link", "none"]
    cloud = ["--cloud", str(tmp_path / "fits" / "gpt"), *prices, "--energy-weight", "0"]
    table = made(device, tmp_path / "t.json", *cloud)
    assert table["models"][1]["tier"] == "cloud"
    assert table["models"][1]["beta_dec_s"] == pytest.approx(0.012, rel=0.03)
    assert table["models"][1]["provenance"]["energy_reason"] == "a log of calls holds no joules"


def test_a_beta_pre_that_no_log_can_tell_is_0_and_said(tmp_path: Path, capsys) -> None:
    frame = calls().with_columns(seconds=pl.col("seconds") - 3e-4 * pl.col("prompt_tokens") + 0.6)
    frame.write_parquet(tmp_path / "log.parquet")
    assert main(["log", str(tmp_path / "log.parquet"), "--out", str(tmp_path)]) == 0
    assert "β_pre came out at" in capsys.readouterr().out
    fit = profile_of(tmp_path / "gpt").latency
    assert fit.beta_pre_s == 0.0
    assert fit.intervals["beta_pre_s"][1] > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read|no column"),
        ("{nonsense", "cannot be read|no column"),
        ('{"model": "m"}\n', "no column prompt_tokens, completion_tokens, seconds; it has model"),
        (
            '{"model": "m", "prompt_tokens": "many", "completion_tokens": 1, "seconds": 1}\n',
            "expected numbers",
        ),
        (
            '{"model": "m", "prompt_tokens": 1, "completion_tokens": 1, "seconds": 1}\n',
            "1 calls: 30 are needed",
        ),
        (
            '{"model": "m", "prompt_tokens": -1, "completion_tokens": null, "seconds": 1}\n' * 50,
            "0 calls: 30 are needed",
        ),
    ],
)
def test_logs_that_say_nothing(tmp_path: Path, text: str, words: str, capsys) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    assert main(["log", str(tmp_path / "log.jsonl")]) == 1
    said = capsys.readouterr()
    assert re.search(words, said.err), said.err


def test_a_logs_own_names(tmp_path: Path) -> None:
    calls().rename({"seconds": "latency", "model": "llm"}).write_parquet(tmp_path / "log.parquet")
    path = str(tmp_path / "log.parquet")
    assert main(["log", path]) == 1
    assert main(["log", path, "--columns", "seconds=latency", "model=llm"]) == 0
    assert main(["log", str(tmp_path / "log.txt")]) == 1
