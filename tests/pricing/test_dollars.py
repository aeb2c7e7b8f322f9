"""Schema /2: dollars beside seconds and joules, against plain NumPy, and every way to be wrong."""

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

ONE = json.loads(synthetic_costs().to_json())
# Dollars per token, as price lists have them.
PRICES = ((0, 0, 0), (2e-7, 2e-7, 0), (1.5e-7, 6e-7, 1e-5), (2.5e-6, 1e-5, 0))


def two(shares=None, link=None):
    """A table of schema /2 with everything known: `ONE` with prices."""
    table = copy.deepcopy(ONE)
    del table["weights"]
    table |= {
        "schema": "cr2fast.cost_table/2",
        "shares": shares or {"latency": 0.3, "energy": 0.2, "price": 0.5},
        "normalizers": {"T0_s": 3.0, "E0_j": 250.0, "D0_usd": 0.002},
    }
    if link:
        table["link"] = link
    for m, prices in zip(table["models"], PRICES, strict=True):
        names = ("usd_per_input_token", "usd_per_output_token", "usd_per_request")
        m |= dict(zip(names, prices, strict=True))
    return table


def bare():
    """Prices and nothing else."""
    return {
        "schema": "cr2fast.cost_table/2",
        "source": "estimated",
        "shares": {"price": 1.0},
        "reference_model": "big",
        "normalizers": {"D0_usd": 0.01},
        "link": {"kind": "none"},
        "models": [
            {"name": "own", "tier": "device", "usd_per_input_token": 0, "usd_per_output_token": 0},
            {
                "name": "big",
                "tier": "cloud",
                "tau0_s": None,
                "usd_per_input_token": 2.5e-6,
                "usd_per_output_token": 1e-5,
            },
        ],
    }


def read(table):
    return cr2fast.CostTable.from_json(json.dumps(table))


def edited(table, path, value):
    table = copy.deepcopy(table)
    *parents, last = path
    node = table
    for key in parents:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return table


TOKENS = st.integers(0, 100_000)
SHARE = st.integers(0, 8)


@given(
    st.lists(st.tuples(TOKENS, *[TOKENS] * 4), min_size=1, max_size=8),
    st.tuples(SHARE, SHARE, SHARE).filter(any),
    st.sampled_from([None, {"kind": "none"}]),
    st.lists(st.floats(0, 1e-3), min_size=12, max_size=12),
    st.integers(0, 2**64 - 1),
)
def test_costs_equal_plain_numpy(rows, parts, link, prices, seed):
    shares = dict(zip(("latency", "energy", "price"), np.array(parts) / sum(parts), strict=True))
    table = two(shares, link)
    for m, (a, b, c) in zip(table["models"], np.reshape(prices, (4, 3)).tolist(), strict=True):
        m |= {"usd_per_input_token": a, "usd_per_output_token": b, "usd_per_request": c}
    table["models"][3]["usd_per_request"] = 1e-4
    costs = read(table)
    data = np.array(rows, dtype=float)
    n_in, n_out = data[:, 0], data[:, 1:] + 1
    states = costs.sample_states(len(rows), seed)
    rates = states.rate_ul_bps, states.rate_dl_bps, states.rtt_s
    t, e = oracle.latency_energy(table, n_in, n_out, *rates)
    d = oracle.usd(table, n_in, n_out)
    np.testing.assert_allclose(costs.latency_s(n_in, n_out, states), t, rtol=1e-12)
    np.testing.assert_allclose(costs.energy_j(n_in, n_out, states), e, rtol=1e-12)
    np.testing.assert_allclose(costs.usd(n_in, n_out), d, rtol=1e-12)
    np.testing.assert_array_equal(costs.usd(n_in, n_out), costs.usd(n_in, n_out, states))
    c = costs.cost(n_in, n_out, states)
    # Costs are single precision: beneath its smallest number they are 0.
    expected = oracle.costs(table, t, e, 3.0, 250.0, d, 0.002)
    np.testing.assert_allclose(c, expected, rtol=1e-6, atol=1e-37)
    assert (c[:, 3] == 1).all(), "the reference model costs 1, always"


def test_a_table_without_a_price_share_costs_what_schema_1_says():
    old = copy.deepcopy(ONE) | {"normalizers": {"T0_s": 3.0, "E0_j": 250.0}}
    new = two({"latency": 0.5, "energy": 0.5, "price": 0})
    a, b = read(old), read(new)
    states = a.sample_states(50, 3)
    n_in, n_out = np.arange(50) * 7, np.arange(200).reshape(50, 4)
    np.testing.assert_array_equal(a.cost(n_in, n_out, states), b.cost(n_in, n_out, states))


def test_prices_alone():
    costs = read(bare())
    assert (costs.has_latency, costs.has_energy, costs.has_prices) == (False, False, True)
    assert costs.shares == {"latency": 0.0, "energy": 0.0, "price": 1.0}
    assert costs.normalizers == (None, None, 0.01)
    states = costs.sample_states(2, 0)
    args = ([100, 200], [[5, 10], [5, 20]], states)
    np.testing.assert_array_equal(costs.cost(*args), [[0, 1], [0, 1]])
    np.testing.assert_allclose(costs.usd(*args), [[0, 3.5e-4], [0, 7e-4]], rtol=1e-15)
    with pytest.raises(cr2fast.CostTableError, match="own.tau0_s: expected seconds, got null"):
        costs.latency_s(*args)
    with pytest.raises(cr2fast.CostTableError, match="own.tau0_s: expected seconds, got null"):
        costs.energy_j(*args)
    fresh = read(edited(bare(), ("normalizers",), ...))
    assert fresh.normalizers is None
    with pytest.raises(cr2fast.CostTableError, match="expected T0_s, E0_j and D0_usd set where"):
        fresh.cost(*args)
    set_ = fresh.normalized_on(*args)
    assert set_.normalizers == (None, None, pytest.approx(5.25e-4))
    assert read(json.loads(set_.to_json())).normalizers == set_.normalizers
    assert fresh.sha256 == set_.sha256


def test_a_link_of_kind_none_is_no_delay():
    costs = read(two(link={"kind": "none"}))
    near, far = cr2fast.LinkStates([1e9], [1e9], [0]), cr2fast.LinkStates([1], [1], [9])
    args = ([100], [[5, 10, 20, 30]])
    for quantity in (costs.latency_s, costs.energy_j, costs.cost):
        np.testing.assert_array_equal(quantity(*args, near), quantity(*args, far))
    radio_free = edited(two(link={"kind": "none"}), ("ue",), {"p_idle_w": 0.05})
    np.testing.assert_array_equal(
        read(radio_free).energy_j(*args, near), costs.energy_j(*args, near)
    )


def test_schema_1_has_no_dollars():
    costs = read(ONE)
    assert not costs.has_prices
    assert costs.shares["price"] == 0
    with pytest.raises(cr2fast.CostTableError, match="device-s.usd_per_input_token: expected doll"):
        costs.usd([1], [[1] * 4])
    with pytest.raises(cr2fast.Cr2Error, match="usd: expected it with a table of schema .*/2"):
        costs.with_normalizers(1.0, 1.0, 1.0)
    with pytest.raises(cr2fast.Cr2Error, match="E0_j: expected a positive number, got none"):
        costs.with_normalizers(1.0)


BAD = [
    (("shares", "price"), 0.6, "shares: expected latency . energy . price = 1, got 1.1"),
    (("shares", "price"), -0.5, "shares.price: expected a number, at least 0"),
    (("shares",), ..., "shares: expected .*no such field"),
    (("shares",), {"latency": None, "price": 1}, "file: expected the fields of the schema"),
    (("shares", "prices"), 0, r'shares.prices: .*\(the nearest is "price"'),
    (("weights",), {"latency": 1, "energy": 0}, 'weights: expected a field of schema .*/2"'),
    (("models", 1, "usd_per_input_token"), -1e-6, r"models\[1\] \(edge-1\).usd_per_input_token: .*"
     "at least 0, got -0.000001"),
    (("models", 1, "usd_per_output_token"), None, "usd_per_output_token: expected dollars, since"),
    (("models", 1, "usd_per_output_token"), ..., "usd_per_output_token: .*write 0 for a model"),
    (("models", 1, "usd_per_request"), -1, "usd_per_request: expected a number, at least 0"),
    (("models", 1, "usd_per_request"), None, "usd_per_request: expected dollars, or no such field"),
    (("models", 1, "usd_per_input_token"), "free", "file: expected the fields of the schema"),
    (("models", 1, "usd_per_input_tokens"), 1, 'the nearest is "usd_per_input_token"'),
    (("models", 1, "beta_decs"), 1, r'models\[1\] \(edge-1\).beta_decs: .*nearest is "beta_dec_s"'),
    (("models", 1, "x" * 10**6), 1, r"models\[1\] \(edge-1\).x{60}: "),
    (("models", 1, "beta_dec_s"), None, "beta_dec_s: expected a number, got null"),
    (("models", 1, "p_active_w"), None, "p_active_w: expected watts, since shares.energy > 0"),
    (("models", 0, "tier"), "cloud", "tier: expected the one device model first, then edge and cl"),
    (("models", 3, "tier"), "device", "tier: expected the one device model first, then edge and cl"),
    (("models", 3, "tier"), "moon", "unknown variant `moon`"),
    (("link", "kind"), "fibre", 'link.kind: expected "shannon", "empirical" or "none", got "fibre"'),
    (("link",), {"kind": "none", "rtt_s": 1}, 'link.rtt_s: .*nearest is'),
    (("normalizers", "D0_usd"), None, "normalizers: expected positive numbers for T0_s, E0_j and D0"),
    (("normalizers", "D0_usd"), 0, "normalizers: expected positive .*got 3.0, 250.0, 0"),
    (("normalizers", "D0"), 1, 'normalizers.D0: .*nearest is "[TE]0_.*"'),
    (("currency",), "EUR", "currency: expected a field of schema"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "words"), BAD)
def test_bad_fields_are_named(path, value, words):
    read(two())
    with pytest.raises(cr2fast.CostTableError, match=words) as error:
        read(edited(two(), path, value))
    assert len(str(error.value)) < 600


def test_a_reference_that_costs_nothing_is_refused():
    table = two({"price": 1.0})
    table["reference_model"] = "device-s"
    with pytest.raises(cr2fast.CostTableError, match="reference_model: expected a model that cost"):
        read(table)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("models", 1, "usd_per_input_token"), r'/1" \(the nearest .*; it belongs to schema .*/2"'),
        (("shares",), 'the nearest is .*; it belongs to schema "cr2fast.cost_table/2"'),
        (("normalizers", "D0_usd"), "it belongs to schema"),
        (("weights", "price"), "it belongs to schema"),
        (("models", 1, "beta_decs"), 'the nearest is "beta_dec_s"'),
        (("models", 1, "p_activew"), 'the nearest is "p_active_w"'),
        (("ue", "p_txw"), 'ue.p_txw: .*the nearest is "p_tx_w"'),
        (("link", "bandwidth_hz"), 'link.bandwidth_hz: .*the nearest is "bandwidth_[ud]l_hz"'),
        (("refrence_model",), 'the nearest is "reference_model"'),
    ],
)
def test_unknown_fields_of_schema_1_name_the_nearest(path, words):
    with pytest.raises(cr2fast.CostTableError, match=words):
        read(edited(ONE, path, 0.5))


def test_what_costs_do_not_read_is_kept():
    table = copy.deepcopy(ONE)
    kept = {"provenance": {"made_by": "hand"}, "extra": {"anything": [1]}, "intervals": {}}
    table |= kept
    table["models"][1] |= kept | {"p_idle_w": 3.0, "p_prefill_w": None}
    table["link"] |= kept
    costs = read(table)
    assert json.loads(costs.to_json()) == table
    assert costs.sha256 != read(ONE).sha256


def test_a_router_of_an_earlier_version_keeps_the_unknown_fields_of_its_table(artifact):
    from testing.artifacts import rewritten

    def change(_, body):
        table = json.loads(body["cost_table"]) | {"my_note": 1}
        body["cost_table"] = json.dumps(table, sort_keys=True, separators=(",", ":"))
        bare = {k: v for k, v in table.items() if k != "normalizers"}
        import hashlib

        text = json.dumps(bare, sort_keys=True, separators=(",", ":"))
        body["cost_table_sha256"] = hashlib.sha256(text.encode()).hexdigest()

    data = rewritten(artifact.read_bytes(), change)
    assert "my_note" in json.loads(cr2fast.Router.from_bytes(data).costs.to_json())


def places(node, path=()):
    """Every path into a table."""
    if path:
        yield path
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items if isinstance(node, (dict, list)) else ():
        yield from (
            places(value, (*path, key)) if isinstance(value, (dict, list)) else [(*path, key)]
        )


WHOLE = two()
ODD = st.sampled_from(
    [
        None, True, "", "x" * 5000, "NaN", -1, -0.0, 0, 1e308, -1e308, 5e-324, 2**70, [], {},
        [[]], {"x": 1}, ["x"] * 3, {"latency": 1}, "\ud7ff\u0000", 0.1,
    ]
)  # fmt: skip


def holds(node, key):
    """Whether an object or an array of a document has such a key or index."""
    if isinstance(node, dict):
        return key in node
    return isinstance(node, list) and isinstance(key, int) and key < len(node)


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(places(WHOLE), key=str)), ODD), min_size=1, max_size=3
    ),
    st.sampled_from(["cr2fast.cost_table/1", "cr2fast.cost_table/2"]),
)
def test_whatever_a_table_holds_it_is_read_or_refused_in_short(edits, schema):
    table = copy.deepcopy(WHOLE) | {"schema": schema}
    for path, value in edits:
        node = table
        # An edit before may have put another value where this one would go.
        for key in path[:-1]:
            node = node[key] if holds(node, key) else None
        if isinstance(node, dict) or holds(node, path[-1]):
            node[path[-1]] = value
    try:
        costs = read(table)
    except cr2fast.CostTableError as error:
        assert len(str(error)) < 1500  # noqa: PT017 - either is fine, if short
        return
    n_out = [[5] * len(costs.models)]
    try:
        states = costs.sample_states(1, 0)
        assert np.isfinite(costs.cost([10], n_out, states)).all()
    except cr2fast.Cr2Error as error:
        assert len(str(error)) < 1500  # noqa: PT017 - either is fine, if short
