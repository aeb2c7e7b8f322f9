"""A gate that sees the link: against plain NumPy, the same bits from every call, old files as before."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cr2fast
from cr2fast.datasets import make_routing_problem
from cr2fast.traffic import label, open_log
from testing import oracle
from testing.traffic import records

LAM, ALPHA = 1.0, 0.1
rates = st.floats(1e3, 1e12)


@pytest.fixture(scope="module")
def problem():
    return make_routing_problem(600, d=24, seed=5)


@pytest.fixture(scope="module")
def split(problem):
    return problem.table.split(seed=0)


def fit(split, costs, **options):
    return cr2fast.fit(
        split[0], costs, teacher_epochs=2, gate_epochs=4, lam_range=(0.1, 20.0), progress=False,
        hidden=32, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def router(problem, split):
    router = fit(split, problem.costs, link_features=True)
    router.calibrate(split[1], lams=[0.3, LAM], alphas=[ALPHA])
    return router


@pytest.fixture(scope="module")
def tensors(router):
    return oracle.read_tensors(router.to_bytes())


def arrays(states):
    return states.rate_ul_bps, states.rate_dl_bps, states.rtt_s


def test_margins_equal_plain_numpy(router, tensors, split):
    x = split[2].embeddings
    states = router.costs.sample_states(len(x), 3)
    got = router.margins(x, [0.3, LAM], states=states)
    expected = oracle.gate_margins(tensors, x, [0.3, LAM], arrays(states))
    np.testing.assert_allclose(got, expected, atol=2e-5)
    unknown = router.margins(x, [0.3, LAM])
    np.testing.assert_allclose(unknown, oracle.gate_margins(tensors, x, [0.3, LAM]), atol=2e-5)
    assert np.abs(got - unknown).max() > 0.01, "the link moves margins"


@settings(max_examples=30)
@given(st.lists(st.tuples(rates, rates, st.floats(0, 1e3)), min_size=4, max_size=4))
def test_any_link_equals_plain_numpy(router, tensors, split, links):
    x = split[2].embeddings[:4]
    states = cr2fast.LinkStates(*np.array(links).T)
    expected = oracle.gate_margins(tensors, x, [LAM], arrays(states))
    np.testing.assert_allclose(router.margins(x, [LAM], states=states), expected, atol=1e-4)


def test_every_call_gives_the_same_bits(router, split, tmp_path):
    test = split[2]
    x, n = test.embeddings, test.n_input_tokens
    states = router.costs.sample_states(len(x), 4)
    device = router.device(LAM, ALPHA)
    assert device.sees_link
    batch = device.margins(x, states=states)
    np.testing.assert_array_equal(router.margins(x, [LAM], states=states)[0], batch)
    for threads in (2, 0):
        np.testing.assert_array_equal(device.margins(x, threads, states=states), batch)
    local = device.route_batch(x, states=states)
    two = router.two_stage(LAM, ALPHA)
    many = two.route_batch(x, n, states)
    np.testing.assert_array_equal(np.asarray(many.margin), batch)
    for i in range(0, len(x), 7):
        one = device.route(x[i], state=states[i])
        assert (one.margin, one.local) == (batch[i], local[i])
        assert two.route(x[i], n[i], state=states[i]).margin == batch[i]
        # Without a state, the mean of training's links stands for it, in both calls.
        assert two.route(x[i], n[i]).margin == device.route(x[i]).margin
    router.save(path := tmp_path / "r.safetensors")
    for again in (cr2fast.Router.load(path).device(LAM, ALPHA), pickle.loads(pickle.dumps(device))):
        np.testing.assert_array_equal(again.margins(x, states=states), batch)
    small = router.to_bfloat16()
    assert small.link_features == router.link_features


def test_what_is_recorded(router, split, problem):
    assert router.training["config"]["link_features"] is True
    kept = router.link_features
    assert list(kept) == ["log rtt_s", "log rate_ul_bps", "log rate_dl_bps"]
    # The round trip of this cost table is a constant.
    assert kept["log rtt_s"][1] == 0 < kept["log rate_ul_bps"][1]
    assert router.parameters["gate"] == fit(split, problem.costs).parameters["gate"] + 3 * 32
    assert b"cr2fast.router/2" in router.to_bytes()[:4000]


def test_without_it_a_router_is_what_it_was(split, problem):
    plain = fit(split, problem.costs)
    assert plain.link_features is None
    assert "link_features" not in plain.training["config"]
    assert b"cr2fast.router/1" in plain.to_bytes()[:4000]
    x = split[2].embeddings
    states = plain.costs.sample_states(len(x), 4)
    np.testing.assert_array_equal(plain.margins(x, [LAM], states=states), plain.margins(x, [LAM]))


def test_calibration_and_evaluation_use_each_rows_state(router, split, problem):
    calibration = split[1]
    report = router.calibrate(calibration, lams=[0.3, LAM], alphas=[ALPHA], seed=9)
    from cr2fast._util import seeds

    states = router.costs.sample_states(len(calibration), seeds.CALIBRATION + 9)
    margins = router.margins(calibration.embeddings, [0.3, LAM], states=states)
    local = margins >= report.thresholds
    np.testing.assert_allclose(report.local_rate[:, 0], local.mean(axis=1))
    found = cr2fast.evaluate(router, split[2], seed=1)
    states = router.costs.sample_states(len(split[2]), seeds.TEST + 1)
    margins = router.margins(split[2].embeddings, [0.3, LAM], states=states)
    np.testing.assert_allclose(found.local_rate[:, 0], (margins >= report.thresholds).mean(axis=1))


def test_a_log_is_labelled_at_the_states_it_was_decided_with(router, split, tmp_path):
    test = split[2]
    lines = records(router, test.embeddings, test.n_input_tokens, LAM, ALPHA)
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    labels = label(open_log(path), router, link="logged")
    states = router.costs.sample_states(len(test), 77)
    ours = router.margins(test.embeddings, [LAM], states=states)[0]
    np.testing.assert_array_equal(labels.sort("ts")["margin"].to_numpy(), ours)


def test_what_is_refused(router, split, problem):
    x = split[2].embeddings
    device = router.device(LAM, ALPHA)
    with pytest.raises(cr2fast.Cr2Error, match=f"states: expected {len(x)}, one per query, got 3"):
        device.margins(x, states=router.costs.sample_states(3, 0))
    with pytest.raises(TypeError, match="states: expected a LinkStates"):
        device.margins(x, states=[1, 2])
    with pytest.raises(TypeError, match="state: expected a LinkState"):
        device.route(x[0], state=0.02)
    prices = cr2fast.CostTable.of_prices(
        {
            m: {"usd_per_input_token": 1e-7 * 3**i, "usd_per_output_token": 1e-7 * 3**i}
            for i, m in enumerate(problem.costs.models)
        }
    )
    with pytest.raises(cr2fast.Cr2Error, match="link_features: .*whose link varies"):
        fit(split, prices, link_features=True)
    with pytest.raises(cr2fast.Cr2Error, match="link_features: expected True or False"):
        fit(split, problem.costs, link_features="yes")


def test_a_file_whose_link_does_not_fit_is_refused(router):
    data = router.to_bytes()
    assert data.count(b"gate.link.scale") == 1
    with pytest.raises(cr2fast.ArtifactError):
        cr2fast.Router.from_bytes(data.replace(b"gate.link.scale", b"gate.link.scalE"))
