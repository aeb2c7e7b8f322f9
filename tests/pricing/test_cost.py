"""Cost tables: the equations against plain NumPy, and every way a file can be wrong."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast.datasets import synthetic_costs
from testing import oracle

BASE = json.loads(synthetic_costs().to_json())


def edited(path, value):
    """BASE with one field set (or removed, when value is `...`)."""
    table = copy.deepcopy(BASE)
    *parents, last = path
    node = table
    for key in parents:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return table


def read(table):
    return cr2fast.CostTable.from_json(json.dumps(table))


TOKENS = st.integers(0, 5000)


@given(
    st.lists(st.tuples(TOKENS, *[TOKENS] * 4), min_size=1, max_size=8),
    st.floats(0, 1),
    st.sampled_from(["linear", "quadratic"]),
    st.integers(0, 2**64 - 1),
)
def test_costs_equal_plain_numpy(rows, weight, form, seed):
    table = copy.deepcopy(BASE)
    table["weights"] = {"latency": weight, "energy": 1 - weight}
    table["normalizers"] = {"T0_s": 3.0, "E0_j": 250.0}
    for k, m in enumerate(table["models"]):
        m |= {"phi_pre": form, "phi_dec": form, "tau0_s": 0.1 * k}
        if form == "quadratic":
            m |= {"kappa_pre": 1e-4, "kappa_dec": 2e-4}
    costs = read(table)
    data = np.array(rows)
    n_in, n_out = data[:, 0], data[:, 1:]
    states = costs.sample_states(len(rows), seed)
    rates = states.rate_ul_bps, states.rate_dl_bps, states.rtt_s
    t, e = oracle.latency_energy(table, n_in.astype(float), n_out.astype(float), *rates)
    np.testing.assert_allclose(costs.latency_s(n_in, n_out, states), t, rtol=1e-12)
    np.testing.assert_allclose(costs.energy_j(n_in, n_out, states), e, rtol=1e-12)
    c = costs.cost(n_in, n_out, states)
    np.testing.assert_allclose(c, oracle.costs(table, t, e, 3.0, 250.0), rtol=1e-6)
    assert (c[:, 3] == 1).all(), "the reference model costs 1, always"


def test_normalizers_are_means_of_the_reference_model(problem):
    t = problem.table
    states = problem.costs.sample_states(len(t), 0)
    args = (t.n_input_tokens, t.n_output_tokens, states)
    with pytest.raises(
        cr2fast.CostTableError, match="normalizers: expected T0_s and E0_j set, got null"
    ):
        problem.costs.cost(*args)
    costs = problem.costs.normalized_on(*args)
    t0, e0 = costs.normalizers
    np.testing.assert_allclose(t0, problem.costs.latency_s(*args)[:, 3].mean(), rtol=1e-12)
    np.testing.assert_allclose(e0, problem.costs.energy_j(*args)[:, 3].mean(), rtol=1e-12)
    assert costs.sha256 == problem.costs.sha256, "the hash is of the testbed, not of the scale"
    assert cr2fast.CostTable.from_json(costs.to_json()).normalizers == (t0, e0), "to the last bit"


def test_the_reference_table_reads(data_dir):
    costs = cr2fast.CostTable.read(data_dir / "cost_table.reference.json")
    assert costs.source == "estimated"
    assert costs.models[0] == "Phi-3-mini-4k-instruct"
    assert costs.reference_model == "Meta-Llama-3_1-70B-Instruct"
    assert costs.normalizers is None


def test_select_chooses_and_orders():
    costs = synthetic_costs()
    chosen = costs.select(["device-s", "edge-3", "edge-1"])
    assert chosen.models == ["device-s", "edge-3", "edge-1"]
    with pytest.raises(cr2fast.CostTableError, match='models: expected a model named "edge-9"'):
        costs.select(["device-s", "edge-9"])
    with pytest.raises(cr2fast.CostTableError, match="device model first"):
        costs.select(["edge-3", "device-s"])
    with pytest.raises(cr2fast.CostTableError, match="reference_model: expected one of the models"):
        costs.select(["device-s", "edge-1"])


BAD = [
    (("schema",), "cr2fast.cost_table/9", 'schema: expected "cr2fast.cost_table/1" or "cr2fast'),
    (("schema",), ..., "schema: .*no such field"),
    (("reference_model",), "gpt", "reference_model: expected one of the models"),
    (
        ("models", 2, "p_active_w"),
        -1,
        r"models\[2\] \(edge-2\).p_active_w: expected a number, at least 0",
    ),
    (("models", 2, "p_active_w"), None, "p_active_w: expected watts.*unmeasured"),
    (("models", 1, "beta_dec_s"), -0.1, "beta_dec_s: expected a number, at least 0"),
    (
        ("models", 1, "beta_dec_s"),
        None,
        r"models\[1\] \(edge-1\).beta_dec_s: expected a number, got null \(unmeasured\)",
    ),
    (("models", 1, "beta_dec_s"), ..., "beta_dec_s: expected .*no such field"),
    (("models", 1, "beta_dec_s"), "fast", "file: expected the fields of the schema"),
    (("models", 1, "phi_pre"), "cubic", "unknown variant `cubic`"),
    (
        ("models", 1, "phi_dec"),
        "quadratic",
        r"kappa_dec: expected 1/token, phi being quadratic, got none",
    ),
    (("models", 1, "kappa_pre"), 0.1, "kappa_pre: expected none, phi being linear, got 0.1"),
    (("models", 1, "name"), "", "name: expected a name, got an empty one"),
    (("models", 1, "name"), "device-s", "name: expected distinct model names"),
    (("models", 0, "tier"), "edge", "device model first"),
    (("models",), [], "reference_model: expected one of the models"),
    (("weights", "latency"), 0.7, "weights: expected latency . energy = 1"),
    (("weights", "energy"), -0.5, "weights.energy: expected a number, at least 0"),
    (("link", "kind"), "fibre", 'link.kind: expected "shannon" or "empirical", got "fibre"'),
    (("link", "kind"), 3, "link.kind: .*, got a number"),
    (("link", "kind"), "x" * 10**6, 'link.kind: .*, got "x{40}"$'),
    (("link", "kind"), "empirical", "link.bandwidth_.l_hz: expected a field of schema"),
    (("link",), {"kind": "empirical"}, "link.samples: expected an array .*, got no such field"),
    (("link", "bandwidth_dl_hz"), ..., "link: expected the fields .*`bandwidth_dl_hz`"),
    (("link", "bits_per_input_token"), None, "link.bits_per_input_token: .*null"),
    (("link", "bandwidth_ul_hz"), 0, "link.bandwidth_ul_hz: expected a positive number"),
    (("link", "rtt_s"), -1, "link.rtt_s: expected a number, at least 0"),
    (("link", "distance_m"), {"distribution": "uniform", "low": 0, "high": 1}, "link.distance_m"),
    (("link", "fading"), {"distribution": "exponential", "mean": -1}, "link.fading"),
    (("link",), ..., 'link.kind: expected "shannon" or "empirical", got no such field'),
    (("normalizers",), {"T0_s": "x", "E0_j": "y"}, "normalizers: expected two positive numbers"),
    (("ue", "p_tx_w"), -1.2, "ue.p_tx_w: expected a number, at least 0"),
    (("ue", "p_rx_w"), None, "ue.p_rx_w: expected watts, since weights.energy > 0, got null"),
    (("ue", "p_idle_w"), "low", "file: expected the fields of the schema"),
    (("normalizers", "T0_s"), 1.0, "normalizers: expected two positive numbers, or two nulls"),
]


@pytest.mark.parametrize(("path", "value", "words"), BAD)
def test_bad_fields_are_named(path, value, words):
    with pytest.raises(cr2fast.CostTableError, match=words):
        read(edited(path, value))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '{"schema": 3}', "\x00"])
def test_other_text_is_refused(text):
    with pytest.raises(cr2fast.CostTableError, match="cost table"):
        cr2fast.CostTable.from_json(text)


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.json"):
        cr2fast.CostTable.read(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(cr2fast.CostTableError, match="expected JSON text"):
        cr2fast.CostTable.read(tmp_path / "binary.json")


def test_unmeasured_energy_is_never_a_number():
    table = edited(("weights",), {"latency": 1.0, "energy": 0.0})
    table["models"][1]["p_active_w"] = None
    costs = read(table)
    states = costs.sample_states(2, 0)
    args = ([10, 20], [[5] * 4, [6] * 4], states)
    assert not costs.has_energy
    assert np.isfinite(costs.normalized_on(*args).cost(*args)).all()
    with pytest.raises(cr2fast.CostTableError, match="edge-1.p_active_w: expected watts, got null"):
        costs.energy_j(*args)


@pytest.mark.parametrize("field", ["p_tx_w", "p_rx_w", "p_idle_w"])
def test_an_unmeasured_radio_leaves_latency_and_refuses_energy(field):
    table = edited(("weights",), {"latency": 1.0, "energy": 0.0})
    whole = read(table)
    table["ue"][field] = None
    costs = read(table)
    states = costs.sample_states(2, 0)
    args = ([10, 20], [[5] * 4, [6] * 4], states)
    assert whole.has_energy
    assert not costs.has_energy
    np.testing.assert_array_equal(
        costs.normalized_on(*args).cost(*args), whole.normalized_on(*args).cost(*args)
    )
    with pytest.raises(cr2fast.CostTableError, match=f"ue.{field}: expected watts, got null"):
        costs.energy_j(*args)


def test_bad_batches_are_named():
    costs = synthetic_costs().with_normalizers(1.0, 1.0)
    states = costs.sample_states(2, 0)
    for args, words in (
        (([1, 2, 3], [[1] * 4] * 2, states), r"n_output_tokens: expected shape \(3, 4\)"),
        (
            ([1, 2], [[1] * 3] * 2, states),
            r"n_output_tokens: expected shape \(2, 4\), got \[2, 3\]",
        ),
        (([1, -2], [[1] * 4] * 2, states), r"n_input_tokens\[1\]: expected a token count"),
        (
            ([1, 2], [[1, 1, 1, np.nan]] * 2, states),
            r"n_output_tokens\[3\]: expected a token count",
        ),
        (([1], [[1] * 4], states), "states: expected length 1, got length 2"),
    ):
        with pytest.raises(cr2fast.Cr2Error, match=words):
            costs.cost(*args)
    with pytest.raises(TypeError, match="n_input_tokens: expected integers or floats"):
        costs.cost(["a", "b"], [[1] * 4] * 2, states)
    with pytest.raises(cr2fast.Cr2Error, match="T0_s: expected a positive number"):
        costs.with_normalizers(0.0, 1.0)


@pytest.mark.parametrize("key", ["beta_dec_s", "reference_model", "models"])
def test_a_key_that_stands_twice_is_named(problem, key):
    text = problem.costs.to_json()
    at = text.index(f'"{key}"')
    twice = f'{text[:at]}"{key}":0.5,{text[at:]}'
    with pytest.raises(cr2fast.CostTableError, match=f'the key "{key}" stands twice'):
        cr2fast.CostTable.from_json(twice)
