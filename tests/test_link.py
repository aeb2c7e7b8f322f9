"""Link states: sampling and Shannon rates."""

from __future__ import annotations

import json

import numpy as np
import oracle
import pytest

import cr2fast
from cr2fast.datasets import synthetic_costs


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
