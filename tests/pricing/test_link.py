"""Link states: sampling, Shannon rates and measured samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast.datasets import synthetic_costs
from testing import oracle


@pytest.fixture(scope="module")
def costs():
    return synthetic_costs()


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_states_equal_plain_numpy(costs, seed):
    states = costs.sample_states(5000, seed)
    link = json.loads(costs.to_json())["link"]
    up, down = oracle.link_states(link, 5000, seed)
    np.testing.assert_allclose(states.rate_ul_bps, up, rtol=1e-10)
    np.testing.assert_allclose(states.rate_dl_bps, down, rtol=1e-10)
    assert (states.rtt_s == link["rtt_s"]).all()


POSITIVE = st.floats(1e-6, 1e12)
SAMPLE = st.fixed_dictionaries(
    {"rate_ul_bps": POSITIVE, "rate_dl_bps": POSITIVE, "rtt_s": POSITIVE}
)


def measured(samples, **extra):
    """The synthetic table over an empirical link."""
    table = json.loads(synthetic_costs().to_json())
    table["link"] = {
        "kind": "empirical",
        "bits_per_input_token": 24,
        "bits_per_output_token": 200.5,
        "samples": samples,
        **extra,
    }
    return table


def read(table):
    return cr2fast.CostTable.from_json(json.dumps(table))


@given(st.lists(SAMPLE, min_size=1, max_size=40), st.integers(0, 2**64 - 1))
def test_empirical_states_equal_plain_numpy(samples, seed):
    table = measured(samples)
    states = read(table).sample_states(500, seed)
    up, down, rtt = oracle.empirical_states(table["link"], 500, seed)
    np.testing.assert_array_equal(states.rate_ul_bps, up)
    np.testing.assert_array_equal(states.rate_dl_bps, down)
    np.testing.assert_array_equal(states.rtt_s, rtt)


@given(
    st.lists(SAMPLE, min_size=1, max_size=5),
    st.lists(st.tuples(*[st.integers(1, 5000)] * 5), min_size=1, max_size=5),
    st.integers(0, 2**32),
)
def test_costs_over_an_empirical_link_equal_plain_numpy(samples, rows, seed):
    table = measured(samples)
    costs = read(table)
    data = np.array(rows, float)
    n_in, n_out = data[:, 0], data[:, 1:]
    states = costs.sample_states(len(rows), seed)
    rates = oracle.empirical_states(table["link"], len(rows), seed)
    t, e = oracle.latency_energy(table, n_in, n_out, *rates)
    np.testing.assert_allclose(costs.latency_s(n_in, n_out, states), t, rtol=1e-12)
    np.testing.assert_allclose(costs.energy_j(n_in, n_out, states), e, rtol=1e-12)


def test_empirical_draws_are_uniform_joint_and_extend():
    samples = [{"rate_ul_bps": k, "rate_dl_bps": 10 * k, "rtt_s": k / 100} for k in range(1, 8)]
    costs = read(measured(samples))
    states = costs.sample_states(70_000, 5)
    counts = np.bincount(states.rate_ul_bps.astype(int), minlength=8)[1:]
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 22.5, "chi-squared, 6 degrees: p > 0.001"
    np.testing.assert_array_equal(states.rate_dl_bps, 10 * states.rate_ul_bps)
    np.testing.assert_array_equal(states.rtt_s, states.rate_ul_bps / 100)
    np.testing.assert_array_equal(costs.sample_states(10, 5).rate_ul_bps, states.rate_ul_bps[:10])


def test_empirical_draws_of_a_seed_are_pinned():
    samples = [{"rate_ul_bps": k, "rate_dl_bps": 1, "rtt_s": 1} for k in range(1, 101)]
    states = read(measured(samples)).sample_states(8, 2026)
    assert states.rate_ul_bps.tolist() == [100, 25, 90, 27, 97, 35, 88, 28]


def test_extra_fields_of_an_empirical_link_are_kept():
    sample = {"rate_ul_bps": 1e6, "rate_dl_bps": 2e6, "rtt_s": 0.01, "at_utc": "2026-05-01"}
    extra = {"intervals": {"rtt_s": [0.009, 0.011]}, "provenance": {"host": "ue"}}
    table = measured([sample], **extra)
    assert json.loads(read(table).to_json())["link"] == table["link"]


GOOD = {"rate_ul_bps": 1e6, "rate_dl_bps": 2e6, "rtt_s": 0.01}


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([], r"link\.samples: expected an array of 1 to 100000 states, got 0"),
        (None, r"link\.samples: expected an array .*, got null"),
        ({"0": GOOD}, r"link\.samples: expected an array .*, got an object"),
        ([GOOD] * 100_001, r"link\.samples: .* 1 to 100000 states, got 100001"),
        ([GOOD, 3], r"link\.samples\[1\]\.rate_ul_bps: expected a positive number, got no such"),
        ([*[GOOD] * 3, {**GOOD, "rate_ul_bps": 0}], r"link\.samples\[3\]\.rate_ul_bps: .*, got 0"),
        ([{**GOOD, "rate_dl_bps": -1.5}], r"link\.samples\[0\]\.rate_dl_bps: .*, got -1.5"),
        ([{**GOOD, "rtt_s": 0}], r"link\.samples\[0\]\.rtt_s: .*, got 0"),
        ([{**GOOD, "rtt_s": None}], r"samples\[0\]\.rtt_s: .*, got null \(unmeasured\)"),
        ([{**GOOD, "rtt_s": "1" * 10**6}], r"samples\[0\]\.rtt_s: .*, got a string$"),
        ([{**GOOD, "rtt_s": [0.1]}], r"samples\[0\]\.rtt_s: .*, got an array"),
        ([{"rate_ul_bps": 1}], r"samples\[0\]\.rate_dl_bps: .*, got no such field"),
    ],
)
def test_bad_samples_are_named(samples, words):
    with pytest.raises(cr2fast.CostTableError, match=words):
        read(measured(samples))


@pytest.mark.parametrize("text", ["NaN", "1e999", "Infinity"])
def test_samples_that_are_no_json_numbers_are_refused(text):
    hostile = json.dumps(measured([GOOD])).replace("0.01", text)
    with pytest.raises(cr2fast.CostTableError, match="file: expected valid JSON"):
        cr2fast.CostTable.from_json(hostile)


def test_as_many_samples_as_allowed_are_read():
    costs = read(measured([GOOD] * 100_000))
    assert (costs.sample_states(1000, 0).rtt_s == 0.01).all()


@pytest.mark.parametrize("field", ["bits_per_input_token", "bits_per_output_token"])
def test_bits_of_an_empirical_link_are_checked(field):
    with pytest.raises(cr2fast.CostTableError, match=f"link.{field}: expected a positive number"):
        read(measured([GOOD], **{field: 0}))


def test_distributions_are_the_ones_asked_for():
    u = oracle.uniforms(7, 300_000).reshape(-1, 3)
    np.testing.assert_allclose(u.mean(0), 0.5, atol=0.005)
    np.testing.assert_allclose(np.cov(u.T), np.eye(3) / 12, atol=0.002)


def test_a_longer_sample_extends_a_shorter_and_seeds_differ(costs):
    long, short = costs.sample_states(100, 3), costs.sample_states(10, 3)
    np.testing.assert_array_equal(long.rate_ul_bps[:10], short.rate_ul_bps)
    assert not np.isin(costs.sample_states(100, 4).rate_ul_bps, long.rate_ul_bps).any()
    assert len(costs.sample_states(0, 3)) == 0


def test_states_are_indexed_and_made_from_measurements():
    states = cr2fast.LinkStates([1e6, 2e6], [4e6, 5e6], [0.01, 0.02])
    assert len(states) == 2
    assert states[-1] == cr2fast.LinkState(2e6, 5e6, 0.02)
    assert [s.rtt_s for s in states] == [0.01, 0.02]
    with pytest.raises(IndexError):
        states[2]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((0.0, 1e6, 0.01), "rate_ul_bps: expected a positive rate"),
        ((1e6, np.inf, 0.01), "rate_dl_bps: expected a positive rate"),
        ((1e6, 1e6, -1.0), "rtt_s: expected seconds, at least 0"),
        ((1e6, 1e6, np.nan), "rtt_s"),
    ],
)
def test_bad_states_are_named(args, words):
    with pytest.raises(cr2fast.Cr2Error, match=words):
        cr2fast.LinkState(*args)
    with pytest.raises(cr2fast.Cr2Error, match=r"states\[0\]." + words):
        cr2fast.LinkStates(*([a] for a in args))


def test_more_states_than_memory_is_an_error(costs):
    with pytest.raises(
        cr2fast.Cr2Error, match="link states: expected a result that fits in memory"
    ):
        costs.sample_states(2**60, 0)


def test_ragged_states_are_refused():
    with pytest.raises(cr2fast.Cr2Error, match="three arrays of one length, got 1, 2, 1"):
        cr2fast.LinkStates([1e6], [1e6, 1e6], [0.0])
