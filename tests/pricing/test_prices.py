"""CostTable.of_prices and from_log: price lists read off bills, and what a log cannot tell."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast.pricing import regression

LIST = {
    "small": {"usd_per_input_token": 2e-7, "usd_per_output_token": 2e-7},
    "mini": {"usd_per_input_token": 1.5e-7, "usd_per_output_token": 6e-7},
    "big": {"usd_per_input_token": 2.5e-6, "usd_per_output_token": 1e-5, "usd_per_request": 0.001},
}


def calls(n=300, seed=0, models=tuple(LIST), digits=None, **columns):
    """A log whose dollars follow `LIST` and whose seconds are linear in tokens."""
    rng = np.random.default_rng(seed)
    rows = []
    for k, model in enumerate(models):
        n_in, n_out = rng.integers(5, 900, n), rng.integers(1, 400, n)
        a, b, c = (
            LIST[model].get(f"usd_per_{x}", 0) for x in ("input_token", "output_token", "request")
        )
        usd = a * n_in + b * n_out + c
        rows.append(
            pl.DataFrame(
                {
                    "model": [model] * n,
                    "prompt_tokens": n_in,
                    "completion_tokens": n_out,
                    "usd": usd if digits is None else usd.round(digits),
                    "seconds": 0.2 + 1e-4 * n_in + 0.01 * (k + 1) * n_out,
                }
            )
        )
    return pl.concat(rows).with_columns(**columns)


def prices(costs, model):
    entry = next(m for m in json.loads(costs.to_json())["models"] if m["name"] == model)
    return tuple(entry.get(f"usd_per_{x}") for x in ("input_token", "output_token", "request"))


def table(log, **options):
    return cr2fast.CostTable.from_log(log, local="small", edge=["mini", "big"], **options)


def test_a_price_list_is_a_table():
    costs = cr2fast.CostTable.of_prices(LIST)
    assert costs.models == ["small", "mini", "big"]
    assert (costs.reference_model, costs.source) == ("big", "estimated")
    assert costs.shares == {"latency": 0, "energy": 0, "price": 1}
    d = costs.usd([100], [[10, 20, 30]])
    np.testing.assert_allclose(d, [[2.2e-5, 2.7e-5, 1.55e-3]], rtol=1e-14)
    states = costs.sample_states(1, 0)
    c = costs.normalized_on([100], [[10, 20, 30]], states).cost([100], [[10, 20, 30]], states)
    np.testing.assert_allclose(c, d / d[0, 2], rtol=1e-6)
    assert cr2fast.CostTable.of_prices(LIST, reference_model="mini").reference_model == "mini"
    models = json.loads(costs.to_json())["models"]
    assert [m["tier"] for m in models] == ["device", "cloud", "cloud"]


def test_a_router_learns_and_chooses_in_dollars(splits):
    names = splits[0].models
    dollars = {name: {"usd_per_output_token": 1e-6 * 3**k} for k, name in enumerate(names)}
    costs = cr2fast.CostTable.of_prices(dollars)
    router = cr2fast.fit(
        splits[0], costs, hidden=16, teacher_epochs=2, gate_epochs=2, batch=64, progress=False
    )
    assert router.costs.normalizers[:2] == (None, None)
    router.calibrate(splits[1], alphas=[0.05])
    test = splits[2]
    again = cr2fast.Router.from_bytes(router.to_bytes())
    lam = float(router.calibration["lams"][10])
    two = again.two_stage(lam, 0.05)
    seen = set()
    for i in range(60):
        x, n = test.embeddings[i], test.n_input_tokens[i]
        choice = two.route(x, n)
        lengths = router.predict_lengths(test.embeddings[i : i + 1], [n])
        m = names.index(choice.model)
        assert choice.usd == pytest.approx(float(costs.usd([n], lengths)[0, m]), rel=1e-12)
        assert (choice.latency_s, choice.energy_j) == (None, None)
        assert choice.place == ("cloud" if m else "device")
        seen.add(choice.place)
        bound = (lengths + 1) * router.calibration["length_factors"] - 1
        limit = float(costs.usd([n], bound)[0, 2]) * 1.0001
        assert two.route(x, n, max_usd=limit).model != names[3]
        with pytest.raises(cr2fast.Cr2Error, match="max_latency_s: expected it with a cost table"):
            two.route(x, n, max_latency_s=1)
    assert seen == {"device", "cloud"}
    e = cr2fast.evaluate(router, test)
    d = costs.usd(test.n_input_tokens, test.n_output_tokens)
    np.testing.assert_allclose(e.baselines["alone"]["usd"], d.mean(axis=0))
    assert np.isfinite(e.usd).all()
    assert np.isnan(e.latency_s).all()
    assert np.isnan(e.energy_j).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"a": {"usd_per_request": 1}}, "models: expected 2 to 1024 models, got 1"),
        ({"a": {}, "b": {"usd_per_request": 1}}, "prices of 'a': expected at least one of"),
        ({"a": {"usd_per_request": -1}, "b": {}}, "usd_per_request: expected dollars, at least 0"),
        ({"a": {"usd_per_request": float("nan")}, "b": {}}, "usd_per_request: expected dollars"),
        ({"a": {"usd_per_request": "1"}, "b": {}}, "usd_per_request: expected dollars"),
        ({"a": {"usd_per_request": True}, "b": {}}, "usd_per_request: expected dollars"),
        ({"a": {"usd_per_inputtoken": 1}, "b": {}}, "nearest: usd_per_input_token"),
        (
            {"a": {"usd_per_request": 0}, "b": {"usd_per_request": 0}},
            "a model that costs something",
        ),
        ({"a": {}, "b": {}}, "prices of 'a': expected at least one of"),
        (
            {"a": (1, 1), "b": {}},
            r"prices of 'a': expected a mapping such as {'usd_per_input_token': .*got \(1, 1\)",
        ),
    ],
)
def test_bad_prices_are_named(given, words):
    with pytest.raises(cr2fast.CostTableError, match=words):
        cr2fast.CostTable.of_prices(given)
    with pytest.raises(TypeError, match="prices: expected prices by model"):
        cr2fast.CostTable.of_prices([1])


@pytest.mark.parametrize("digits", [None, 8])
def test_exact_dollars_give_the_price_list_itself(digits):
    costs = table(calls(digits=digits))
    for model, listed in LIST.items():
        want = tuple(
            listed.get(f"usd_per_{x}", 0) for x in ("input_token", "output_token", "request")
        )
        assert prices(costs, model) == want
    assert costs.source == "measured"
    assert not [n for n in costs.notes if "usd" in n or "billed" in n]
    # Seconds were linear, too.
    t = costs.latency_s([100], [[10, 10, 10]], costs.sample_states(1, 0))
    np.testing.assert_allclose(t, [[0.31, 0.41, 0.51]], rtol=1e-9)


@given(
    st.tuples(*[st.integers(0, 10**6)] * 3).filter(any),
    st.integers(30, 200),
    st.floats(0, 0.45),
    st.integers(0, 10**6),
)
def test_prices_are_found_among_bills_for_more_than_the_tokens(units, n, other, seed):
    rng = np.random.default_rng(seed)
    values = np.array(units) * [1e-11, 1e-11, 1e-7]
    n_in, n_out = rng.integers(1, 10**4, n).astype(float), rng.integers(1, 3000, n).astype(float)
    usd = values[0] * n_in + values[1] * n_out + values[2]
    extra = rng.random(n) < other
    if extra.mean() > 0.45:
        extra[:] = False
    usd[extra] += usd.max() * rng.uniform(0.1, 2, extra.sum())
    found = regression.prices(n_in, n_out, usd)
    assert found is not None
    assert found.untold == ()
    assert found.agree >= 1 - extra.mean() - 1e-12
    fit = found.values[0] * n_in + found.values[1] * n_out + found.values[2]
    np.testing.assert_allclose(fit[~extra], usd[~extra], rtol=2e-9, atol=6e-11)


def test_a_real_log(data_dir):
    costs = cr2fast.CostTable.from_log(
        data_dir / "log_sample.jsonl", local="llama3.1-8b", edge=["gpt-4o-mini", "gpt-4o"]
    )
    # The price lists of the time, to the digit, are in the notes; bills were for more than tokens.
    assert costs.source == "estimated"
    notes = "\n".join(costs.notes)
    assert "($2.5e-06 per input token, $1e-05 per output token" in notes
    frame = pl.read_ndjson(data_dir / "log_sample.jsonl").drop_nulls("completion_tokens")
    for name in costs.models:
        rows = frame.filter((pl.col("model") == name) & pl.col("usd").is_not_null())
        a, b, c = prices(costs, name)
        told = (a * rows["prompt_tokens"] + b * rows["completion_tokens"] + c).sum()
        assert told == pytest.approx(rows["usd"].sum(), rel=1e-3)
    assert "gpt-4o: 6 failed calls left out" in notes
    assert "gpt-4o: 636 of 1534 calls were billed otherwise" in notes
    assert "gpt-4o: usd_per_output_token, usd_per_request cannot be told apart" in notes
    assert costs.has_latency


def test_bills_for_more_than_tokens_make_a_factor():
    """What was billed is what the table says of the log as a whole; the list stands in a note."""
    more = pl.when(pl.col("prompt_tokens") % 3 == 0).then(2.5).otherwise(1.0)
    log = calls(usd=pl.col("usd") * more)
    found = table(log)
    for name in found.models:
        rows = log.filter(pl.col("model") == name)
        a, b, c = prices(found, name)
        told = (a * rows["prompt_tokens"] + b * rows["completion_tokens"] + c).sum()
        assert told == pytest.approx(rows["usd"].sum(), rel=1e-9)
        plain = prices(table(calls()), name)
        assert a / plain[0] == pytest.approx(b / plain[1])
        assert a > 1.1 * plain[0]
    assert any("price list" in note and "the list times 1." in note for note in found.notes)
    assert found.source == "estimated"


def test_models_that_cost_nothing_are_priced_by_the_clock():
    free = calls(usd=pl.lit(0.0))
    found = table(free)
    assert found.shares == {"latency": 1.0, "energy": 0.0, "price": 0.0}
    assert any("every bill is 0: the cost is the time" in note for note in found.notes)
    with pytest.raises(cr2fast.Cr2Error, match="expected a bill above 0, or seconds .*--price"):
        table(free.drop("seconds"))


def test_a_time_without_a_unit_is_asked_for():
    log = calls().drop("usd").rename({"seconds": "latency"})
    with pytest.raises(cr2fast.Cr2Error, match="--column seconds=latency"):
        table(log)
    with pytest.raises(cr2fast.Cr2Error, match="expected a unit, 'seconds' or 'milliseconds'"):
        table(log, columns={"latency": "latency"})
    assert table(log, columns={"seconds": "latency"}).has_latency
    billed = table(calls().rename({"seconds": "latency"}))
    assert any("['latency'] not read: " in note for note in billed.notes)


def test_what_a_log_cannot_tell_is_said():
    same = table(calls(completion_tokens=pl.lit(1), usd=pl.col("prompt_tokens") * 1e-6 + 1e-6))
    assert any("usd_per_output_token, usd_per_request cannot be told" in n for n in same.notes)
    noisy = calls(usd=pl.col("usd") * (1 + pl.col("prompt_tokens").sin() ** 2))
    assert any("dollars are not linear in tokens" in n for n in table(noisy).notes)
    assert table(noisy).source == "estimated"
    no_dollars = table(calls().drop("usd"))
    assert no_dollars.shares["latency"] == 1
    assert not no_dollars.has_prices
    assert "small: no dollars in the log: prices unknown" in no_dollars.notes
    no_seconds = table(calls().drop("seconds"))
    assert not no_seconds.has_latency
    both = table(calls(), shares={"latency": 0.5, "price": 0.5})
    assert both.source == "estimated", "times are a fit"
    assert both.normalizers is None


def test_logs_are_read_from_files_and_under_other_names(tmp_path):
    log = calls()
    expected = table(log).sha256
    log.write_ndjson(tmp_path / "log.jsonl")
    log.write_csv(tmp_path / "log.csv")
    log.write_parquet(tmp_path / "log.parquet")
    for kind in ("jsonl", "csv", "parquet"):
        assert table(tmp_path / f"log.{kind}").sha256 == expected
    other = log.rename({"usd": "bill", "prompt_tokens": "input_tokens", "model": "who"})
    assert table(other, columns={"usd": "bill", "model": "who"}).sha256 == expected


ROW = {"prompt_tokens": None, "completion_tokens": 3, "usd": 1e-6, "seconds": 1.0}


@pytest.mark.parametrize(
    ("log", "options", "words"),
    [
        (calls().drop("prompt_tokens"), {}, r"log: expected a column for prompt_tokens, tried \['pr"),
        (calls(), {"columns": {"usd": "bill"}}, r"a column for usd, tried \['bill'\]; the log has"),
        (calls(), {"columns": {"dollar": "usd"}}, "columns: expected some of .*, got 'dollar'"),
        (calls(models=("small", "mini")), {}, r"got none of \['big'\]; it has \['mini', 'small'\]"),
        (calls(usd=-pl.col("usd")), {}, "log.usd: expected numbers, at least 0, got -.* of small"),
        (calls(seconds=pl.lit(float("nan"))), {}, "log.seconds: expected numbers, at least 0, got nan"),
        (calls(usd=pl.lit("free")), {}, "log.usd: expected numbers, got String"),
        (calls(prompt_tokens=pl.lit(None)), {}, "got none in row 0, of small .300 such calls"),
        (calls(), {"shares": {"latency": 1, "price": 1}}, "shares: expected latency . energy . price"),
        (calls(), {"shares": {"energy": 0.5, "price": 0.5}}, "expected watts, since shares.energy"),
        (calls(), {"shares": {"prices": 1}}, 'shares.prices: .*the nearest is "price"'),
        (calls(), {"reference_model": "huge"}, "reference_model: expected one of the models"),
        (calls().clear(), {}, "log: expected at least one row, got none"),
    ],
)  # fmt: skip
def test_bad_logs_are_named(log, options, words):
    with pytest.raises(cr2fast.Cr2Error, match=words):
        table(log, **options)


def test_bad_arguments_are_named(tmp_path):
    log = calls()
    for edge in ([], ["small"], ["mini", "mini"]):
        with pytest.raises(cr2fast.Cr2Error, match="edge: expected other models than the local"):
            cr2fast.CostTable.from_log(log, local="small", edge=edge)
    with pytest.raises(TypeError, match="a name and a list of names"):
        cr2fast.CostTable.from_log(log, local="small", edge="mini")
    with pytest.raises(
        TypeError, match="log: expected a path, a polars frame or an object with .*, got int"
    ):
        table(3)
    with pytest.raises(FileNotFoundError, match="log: expected a file"):
        table(tmp_path / "none.csv")
    (tmp_path / "bad.jsonl").write_text("{]\n")
    with pytest.raises(cr2fast.Cr2Error, match="log: expected JSON Lines in .*line 1"):
        table(tmp_path / "bad.jsonl")
    with pytest.raises(
        cr2fast.Cr2Error, match="log: expected a file whose name ends in one of .*jsonl"
    ):
        table(tmp_path / "log.xls")


def spoilt(row, **values):
    """A log of which one call has other values."""
    frame = calls()
    at = pl.int_range(pl.len()) == row
    return frame.with_columns(
        **{c: pl.when(at).then(pl.lit(v)).otherwise(c) for c, v in values.items()}
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"usd": 1e6}, "1 of 300 calls left out whose dollars are out of all proportion to the "
         "others', such as 1e+06 for "),
        ({"completion_tokens": 2**32 - 1}, " + 4294967295 tokens; mend them"),
    ],
)  # fmt: skip
def test_one_absurd_call_makes_no_absurd_prices(values, words):
    plain, found = table(calls()), table(spoilt(7, **values))
    assert prices(found, "small") == pytest.approx(prices(plain, "small"))
    assert prices(found, "big") == prices(plain, "big")
    assert any(words in note for note in found.notes), found.notes
    state = plain.sample_states(1, 0)
    for costs in (plain, found):
        t = costs.latency_s([100], [[10, 10, 10]], state)
        np.testing.assert_allclose(t, [[0.31, 0.41, 0.51]], rtol=1e-6)
    # Where bills follow no list, as well.
    noise = pl.col("usd") * (1 + 0.3 * pl.col("prompt_tokens").sin())
    noisy = [table(frame.with_columns(usd=noise)) for frame in (calls(), spoilt(7, **values))]
    assert prices(noisy[1], "small") == pytest.approx(prices(noisy[0], "small"), rel=0.05)


def test_one_absurd_time_makes_no_absurd_times():
    found = table(spoilt(7, seconds=1e7))
    t = found.latency_s([100], [[10, 10, 10]], found.sample_states(1, 0))
    np.testing.assert_allclose(t, [[0.31, 0.41, 0.51]], rtol=1e-9)
    assert any("1 of 300 calls left out whose seconds are out of all" in n for n in found.notes)


def test_price_lists_of_caches_and_fees_are_in_proportion():
    # A tenth of a cent per call beside tokens at a millionth; and a hundredth for what was cached.
    rng = np.random.default_rng(0)
    n_in, n_out = rng.integers(1, 10**5, 3000).astype(float), rng.integers(1, 3000, 3000) + 0.0
    usd = 1e-6 * n_in * np.where(rng.random(3000) < 0.5, 0.01, 1) + 4e-6 * n_out + 1e-3
    assert not regression.far(n_in, n_out, usd, 100.0).any()
    free = np.where(rng.random(3000) < 0.9, 0, usd)
    assert not regression.far(n_in, n_out, free, 100.0).any()
    assert not regression.far(n_in, n_out, 0 * usd, 100.0).any()


@pytest.mark.parametrize("count", [2.0**40, 1.5])
def test_counts_that_are_none_are_refused_as_read_log_does(count):
    log = spoilt(7, completion_tokens=count)
    with pytest.raises(cr2fast.Cr2Error, match="log.completion_tokens: expected token counts, got"):
        table(log)


def test_seconds_that_do_not_vary_are_said():
    found = table(calls(seconds=pl.lit(0.5)))
    assert any(
        "small: all 300 calls took 0.5 s, so that no token is said to take" in n
        for n in found.notes
    )
    assert not any("R2" in n for n in found.notes)
    t = found.latency_s([100], [[10, 10, 10]], found.sample_states(1, 0))
    assert t.tolist() == [[0.5, 0.5, 0.5]]
    exact = "\n".join(table(calls()).notes)
    assert "95 % took no longer than it says" in exact
    assert "half of the calls are within 1 %" in exact
