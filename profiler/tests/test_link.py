"""The link: known shapes are found, failures are counted, and noise is never a rate."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shaped import Shape, ShapedProxy

from cr2fast_profiler.agent import Agent
from cr2fast_profiler.errors import LinkError
from cr2fast_profiler.link import Estimate, LinkMeasurement, LinkOptions, LinkSample, measure_link
from cr2fast_profiler.link.estimate import estimate, fit_slope, read_round, summarise
from cr2fast_profiler.link.probe import Plan, Row, order_of
from cr2fast_profiler.link.rows import frame
from cr2fast_profiler.meters.base import Reason, Unavailable

TOKEN = "a-token-of-enough-characters"
NONE = Unavailable("rapl", Reason.NOT_PRESENT, "no sensor here")
QUICK = LinkOptions(rounds=6, sizes_bytes=(2_048, 16_384, 65_536), pings=3, idle_gap_s=0.0)


@pytest.fixture(scope="module")
def agent():
    with Agent("127.0.0.1", 0, TOKEN, NONE) as running:
        yield running


def measure(url, options=QUICK, **more):
    return measure_link(url, TOKEN, options=options, progress=False, **more)


def names(measured):
    return {f.name for f in measured.flags}


@pytest.fixture(scope="module")
def asymmetric(agent, tmp_path_factory):
    """A link of 4 Mbit/s up, 12 Mbit/s down and 60 ms, measured while the wall clock jumps back.

    Slow, so that a busy machine's late wake-ups stay small beside it.
    """
    out = tmp_path_factory.mktemp("asymmetric")
    patch = pytest.MonkeyPatch()
    start = time.time()
    clock = iter(range(10**9))
    patch.setattr(time, "time", lambda: start - 3600.0 * next(clock))
    try:
        with ShapedProxy(agent.port, Shape(4e6, 0.025), Shape(12e6, 0.035)) as proxy:
            return measure(proxy.url, out=out), out
    finally:
        patch.undo()


def test_rates_and_round_trip_of_a_shaped_link_are_found(asymmetric):
    measured, _ = asymmetric
    s = measured.summary
    assert s["rate_ul_bps"].median == pytest.approx(4e6, rel=0.05)
    assert s["rate_dl_bps"].median == pytest.approx(12e6, rel=0.05)
    assert s["rtt_s"].median == pytest.approx(0.060, rel=0.05)
    assert len(measured.samples) == 6
    assert s["rate_ul_bps"].low <= s["rate_ul_bps"].median <= s["rate_ul_bps"].high


def test_a_proxy_that_answers_connections_is_told_and_not_believed(asymmetric):
    measured, _ = asymmetric
    assert "proxy" in names(measured)
    assert measured.rtt_source == "request"
    assert measured.summary["connect_s"].median < 0.010 < measured.summary["request_s"].median


def test_a_direct_path_takes_the_connections_time(agent):
    options = dataclasses.replace(QUICK, sizes_bytes=(4_096, 1 << 20, 1 << 22), connects=9)
    measured = measure(agent.url, options)
    assert measured.rtt_source == "connect"
    assert measured.summary["rtt_s"].median < 0.005
    assert "same_host" in names(measured)


def test_the_file_reads_back_and_makes_a_section(asymmetric):
    measured, out = asymmetric
    assert LinkMeasurement.read(out / "link.json") == measured
    section = measured.section(32.0, 40.0)
    assert section["kind"] == "empirical"
    assert section["bits_per_output_token"] == 40.0
    assert all(s["rate_ul_bps"] > 0 and s["rtt_s"] > 0 for s in section["samples"])
    low, high = section["intervals"]["rtt_s"]
    assert low <= measured.summary["rtt_s"].median <= high
    p = measured.provenance
    assert p["rounds"] == 6
    assert p["failed_probes"] == 0
    assert p["started_utc"].endswith("+00:00")
    assert TOKEN not in json.dumps(section) + (out / "run.json").read_text()


def test_raw_rows_are_kept_and_a_finished_run_is_only_read(asymmetric, agent):
    measured, out = asymmetric
    rows = pl.read_parquet(out / "rows" / "*.parquet")
    assert set(rows["kind"]) == {"request", "connect", "uplink", "downlink", "warmup"}
    assert rows["duration_s"].null_count() == 0
    found = estimate(rows, QUICK.confidence, QUICK.seed)
    assert found.samples == measured.samples
    assert found.summary == measured.summary


def test_a_run_that_stopped_goes_on_and_ends_in_the_same_file(agent, tmp_path):
    with ShapedProxy(agent.port, Shape(40e6, 0.002), Shape(40e6, 0.002)) as proxy:
        with pytest.raises(LinkError, match="run more rounds, or allow a larger budget"):
            measure(proxy.url, out=tmp_path, budget_s=1e-9)
        first = measure(proxy.url, dataclasses.replace(QUICK, rounds=3), out=tmp_path)
        (tmp_path / "rows" / ".round-00003.parquet.99").write_bytes(b"cut sh")
        whole = measure(proxy.url, out=tmp_path)
        assert whole.samples[:3] == first.samples
        again = measure(proxy.url, out=tmp_path)
        assert again.samples == whole.samples
        assert again.summary == whole.summary
        with pytest.raises(LinkError, match="that run had pings 3, not 4; choose another --out"):
            measure(proxy.url, dataclasses.replace(QUICK, pings=4), out=tmp_path)
        (tmp_path / "rows" / "round-00004.parquet").write_bytes(b"PAR1")
        with pytest.raises(LinkError, match="round-00004.parquet: expected rows of a round"):
            measure(proxy.url, out=tmp_path)


def test_power_save_shows_in_the_pair_and_not_in_the_round_trip(agent):
    options = dataclasses.replace(QUICK, idle_gap_s=0.3)
    sleepy = Shape(40e6, 0.005, wake_s=0.06, sleep_after_s=0.25)
    with ShapedProxy(agent.port, sleepy, Shape(40e6, 0.005)) as proxy:
        measured = measure(proxy.url, options)
    assert "power_save" in names(measured)
    assert measured.summary["after_idle_extra_s"].median == pytest.approx(0.06, abs=0.01)
    assert measured.summary["next_s"].median < 0.03
    assert measured.summary["rtt_s"].median == pytest.approx(0.010, abs=0.004)


def test_a_transfer_that_is_cut_is_counted_and_the_rest_goes_on(agent):
    shape = Shape(40e6, 0.001)
    with ShapedProxy(agent.port, shape, shape, cuts=2, cut_bytes=120_000) as proxy:
        measured = measure(proxy.url)
    assert measured.rejections["probes"] == {"cut": 2}
    assert measured.provenance["failed_probes"] == 2
    assert measured.summary["rate_ul_bps"].median == pytest.approx(40e6, rel=0.25)


def test_a_path_that_always_cuts_ends_the_run_with_the_reason(agent):
    shape = Shape(1e9, 0.0)
    with (
        ShapedProxy(agent.port, shape, shape, cuts=10**9, cut_bytes=10_000) as proxy,
        pytest.raises(LinkError, match="got 0 of 6 .*6 cut.*see the reasons"),
    ):
        measure(proxy.url)


def test_a_link_too_fast_for_the_sizes_is_an_error_never_a_rate(agent):
    tiny = dataclasses.replace(QUICK, sizes_bytes=(1, 2, 3, 4))
    with pytest.raises(LinkError, match="too fast for these sizes; send larger ones"):
        measure(agent.url, tiny)


def test_a_wrong_token_is_refused(agent):
    with pytest.raises(LinkError, match="401.*give the token the agent was started with") as e:
        measure_link(agent.url, "another-token-that-is-wrong", progress=False)
    assert "another-token" not in str(e.value)


def test_a_dead_endpoint_is_told():
    with pytest.raises(LinkError, match="start `cr2fast-profile agent` there"):
        measure("http://127.0.0.1:9")
    with pytest.raises(LinkError, match="expected http://HOST:PORT"):
        measure("ftp://host")


def test_an_agent_that_dies_ends_the_run_and_keeps_the_rows(tmp_path):
    agent = Agent("127.0.0.1", 0, TOKEN, NONE)
    options = dataclasses.replace(QUICK, rounds=1000, timeout_s=1.0)
    timer = threading.Timer(0.5, agent.close)
    timer.start()
    with pytest.raises(LinkError, match="the agent is gone: 3 rounds in a row"):
        measure(agent.url, options, out=tmp_path)
    timer.join()
    assert len(list((tmp_path / "rows").glob("*.parquet"))) >= 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 2}, "rounds: expected 3"),
        ({"sizes_bytes": (5, 5)}, "sizes_bytes: expected two sizes"),
        ({"sizes_bytes": (0, 5)}, "sizes_bytes"),
        ({"sizes_bytes": (5, 1 << 30)}, "sizes_bytes"),
        ({"sizes_bytes": (5, 6), "repeats": 1}, "repeats: expected 3 transfers"),
        ({"pings": 0}, "pings"),
        ({"connects": 0}, "connects"),
        ({"idle_gap_s": -1}, "idle_gap_s"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"confidence": 1}, "confidence"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_named(change, words):
    with pytest.raises(LinkError, match=words):
        LinkOptions(**change)


def test_a_folder_that_cannot_be_is_told(agent, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(LinkError, match="choose --out"):
        measure(agent.url, out=tmp_path / "file")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(LinkError, match="expected a link run"):
        measure(agent.url, out=tmp_path)


# The estimator, without a network.

PLAN = Plan((2_048, 8_192, 32_768, 131_072), 2, 5, 3, 1.0)


def simulated(rounds, up_bps, down_bps, rtt_s, jitter_s, seed=0, connect_s=None, late_s=0.0):
    """Rows of a link whose times are a + 8·bytes/rate + jitter ≥ 0."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(rounds):
        u, d = (np.broadcast_to(r, rounds)[number] for r in (up_bps, down_bps))
        for order, (kind, size) in enumerate(order_of(PLAN, seed, number)):
            sent, received = 100, 90
            if kind.endswith("uplink"):
                sent += size
            if kind.endswith("downlink"):
                received += size
            t = rtt_s + 8 * sent / u + 8 * received / d + rng.exponential(jitter_s)
            dns = None
            if kind == "connect":
                t = (connect_s or rtt_s) + rng.exponential(jitter_s)
                dns = 1e-3
            if kind == "idle_first":
                t += late_s
            name = "warmup" if kind.startswith("warmup") else kind
            rows.append(Row(number, order, name, size, 0, float(t), dns, sent, received, ""))
    return frame(rows)


@settings(deadline=None, max_examples=25)
@given(st.floats(1e5, 1e8), st.floats(1e5, 1e8), st.floats(0.002, 0.3), st.integers(0, 2**32))
def test_simulated_links_are_recovered(up, down, rtt, seed):
    found = estimate(simulated(12, up, down, rtt, 2e-5, seed))
    assert found.summary["rate_ul_bps"].median == pytest.approx(up, rel=0.03)
    assert found.summary["rate_dl_bps"].median == pytest.approx(down, rel=0.03)
    assert found.summary["rtt_s"].median == pytest.approx(rtt, rel=0.03)
    assert {f.name for f in found.flags} <= {"not_linear"}


def test_the_distribution_and_its_joint_states_are_kept():
    states = np.tile([2e6, 20e6], 10)
    found = estimate(simulated(20, states, states * 4, 0.02, 1e-5))
    for sample, state in zip(found.samples, states, strict=True):
        assert sample.rate_ul_bps == pytest.approx(state, rel=0.02)
        assert sample.rate_dl_bps == pytest.approx(4 * state, rel=0.02)
    quantiles = found.summary["rate_ul_bps"].quantiles
    assert quantiles["p05"] < 2.1e6 < 19e6 < quantiles["p95"]


def test_intervals_of_the_median_cover():
    rng = np.random.default_rng(3)
    inside = 0
    for seed in range(400):
        rates = 10e6 * np.exp(0.3 * rng.standard_normal(25))
        e = summarise(rates, rates, "bit/s", 0.95, seed)
        inside += e.low <= 10e6 <= e.high
    assert 0.90 <= inside / 400 <= 0.98


def test_heavy_outliers_do_not_move_a_slope():
    x = np.repeat(np.array(PLAN.sizes_bytes, float), 4)
    y = 0.01 + x * 1e-6
    y[::4] += np.random.default_rng(0).exponential(0.2, 4)
    slope, _ = fit_slope(x, y)
    assert slope == pytest.approx(1e-6, rel=0.01)


@settings(deadline=None, max_examples=40)
@given(st.floats(1e-5, 1e-1), st.integers(0, 2**32))
def test_noise_is_never_a_negative_or_infinite_rate(jitter, seed):
    rows = simulated(6, 1e13, 1e13, 0.01, jitter, seed)
    states = [r for r, _ in (read_round(n, rows.filter(round=n)) for n in range(6)) if r]
    assert all(0 < s.slope_ul < np.inf and s.request_s > 0 for s in states)
    if len(states) < 3:
        with pytest.raises(LinkError, match="too fast"):
            estimate(rows)


def test_rounds_lost_to_noise_are_flagged_as_a_bias():
    rates = np.where(np.arange(30) % 4 == 0, 1e13, 5e6)
    found = estimate(simulated(30, rates, 5e6, 0.01, 2e-4))
    assert found.rejected_rounds.get("uplink_slope_within_noise", 0) >= 4
    (flag,) = [f for f in found.flags if f.name == "rejected_rounds"]
    assert "biased low" in flag.detail


def test_a_burst_allowance_is_flagged():
    rows = simulated(12, 5e6, 5e6, 0.01, 1e-5)
    burst = pl.when(pl.col("kind") == "downlink").then(
        pl.col("duration_s") - 8 * pl.min_horizontal("bytes", pl.lit(32_768)) / 5e6
    )
    found = estimate(rows.with_columns(burst.otherwise("duration_s").alias("duration_s")))
    assert [f.detail.split(":")[0] for f in found.flags if f.name == "not_linear"] == ["downlink"]


def test_no_power_save_is_no_flag():
    found = estimate(simulated(20, 5e6, 5e6, 0.02, 1e-3, late_s=2e-3))
    assert "power_save" not in {f.name for f in found.flags}


def test_order_is_random_reproducible_and_whole():
    first, again, other = (order_of(PLAN, s, 0) for s in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other)
    assert first[0] == ("idle_first", 0)
    assert first[1] == ("idle_second", 0)
    assert sum(kind == "uplink" for kind, _ in first) == 8


E = dataclasses.asdict(Estimate(1.0, 0.9, 1.1, 0.95, 5, "s", {"p50": 1.0}))
GOOD = {
    "schema": "cr2fast.link/1",
    "samples": [dataclasses.asdict(LinkSample(1e6, 2e6, 0.01, 0))],
    "summary": {"rtt_s": E},
    "rtt_source": "connect",
    "flags": [],
    "rejections": {},
    "provenance": {},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "x"}, "expected schema"),
        ({"samples": []}, "at least one"),
        ({"samples": [{**GOOD["samples"][0], "rtt_s": 0}]}, r"samples\[0\].rtt_s: expected a pos"),
        ({"samples": [{**GOOD["samples"][0], "rate_ul_bps": "1"}]}, "rate_ul_bps"),
        ({"samples": [1]}, "expected the fields"),
        ({"samples": [{"rtt_s": 1}]}, "expected the fields"),
        ({"summary": []}, "expected the fields"),
        ({"flags": None}, "expected the fields"),
    ],
)
def test_bad_files_are_named(change, words):
    LinkMeasurement.from_json(json.dumps(GOOD))
    with pytest.raises(LinkError, match=words):
        LinkMeasurement.from_json(json.dumps({**GOOD, **change}))


def test_files_that_are_none(tmp_path):
    for text in ("", "[]", "null", "{}", "\xff"):
        with pytest.raises(LinkError, match=r"link\.json: expected"):
            LinkMeasurement.from_json(text)
    with pytest.raises(LinkError, match="run `cr2fast-profile link` first"):
        LinkMeasurement.read(tmp_path / "absent.json")
