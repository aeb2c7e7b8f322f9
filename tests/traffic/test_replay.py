"""Labels and replays of logged traffic, beside a plain NumPy twin."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace as changed

import numpy as np
import polars as pl
import pytest

import cr2fast
from cr2fast import Cr2Error, OperatingPointError
from cr2fast.datasets import make_routing_problem
from cr2fast.encoders.info import EncoderInfo
from cr2fast.traffic import label, open_log, replay, replays
from cr2fast.traffic.label import judge, link_states, traffic_of
from testing import traffic
from tests.conftest import QUICK


@pytest.fixture(scope="module")
def other(problem, splits):
    """A router of the same encoder with another gate, calibrated."""
    router = cr2fast.fit(splits[0], problem.costs, hidden=16, seed=5, **QUICK)
    router.calibrate(splits[1], alphas=(0.01, 0.05, 0.1))
    return router


def test_the_logged_point_replayed_is_what_was_logged(log, router, records):
    again = replay(log, router, 1.0, 0.05)
    assert again.changed == 0
    assert again.would == again.logged
    places = [r["place"] for r in records]
    assert again.would.local_rate == places.count("device") / len(places)
    assert again.would.share == {
        m: [r["model"] for r in records].count(m) / len(records) for m in router.models
    }
    assert again.measured.latency_s == pytest.approx(np.mean([r["total_s"] for r in records]))
    assert again.left_out == {}


def test_another_point_is_counted_as_plain_numpy_counts_it(log, router, splits):
    test, lam, alpha = splits[2], 1.0, 0.01
    traffic_ = traffic_of(log, router)
    states = link_states(traffic_, router, "logged")
    n_out = router.predict_lengths(test.embeddings, test.n_input_tokens)
    c = router.costs.cost(test.n_input_tokens, n_out, states).astype(float)
    p = router.accuracies(test.embeddings).astype(float)
    u = p - lam * c
    tau = router.device(lam, alpha).threshold
    local = router.margins(test.embeddings, [lam])[0] >= np.float32(tau)
    chosen = np.where(local, 0, 1 + u[:, 1:].argmax(axis=1))
    rows = np.arange(len(test))
    again = replay(log, router, lam, alpha)
    would = again.would
    assert would.local_rate == local.mean()
    assert would.false_acceptances == (local & (u[:, 0] < u[:, 1:].max(axis=1))).sum()
    assert would.accuracy == pytest.approx(p[rows, chosen].mean())
    assert would.cost == pytest.approx(c[rows, chosen].mean())
    seconds = router.costs.latency_s(test.n_input_tokens, n_out, states)[rows, chosen]
    assert would.latency_s == pytest.approx(seconds.mean())
    assert would.latency_p95_s == pytest.approx(np.quantile(seconds, 0.95))
    joules = router.costs.energy_j(test.n_input_tokens, n_out, states)[rows, chosen]
    assert would.energy_j == pytest.approx(joules.mean())
    assert would.usd is None
    assert 0 < would.local_rate < again.logged.local_rate
    assert again.changed == pytest.approx(again.logged.local_rate - would.local_rate)


def test_labels_are_those_that_calibration_gives_the_same_rows(log, router, splits):
    found = label(log, router, link="table")
    test = splits[2]
    traffic_ = traffic_of(log, router)
    judged = judge(traffic_, router, link="table")
    u = judged.accuracies.astype(float) - judged.costs.astype(float)
    assert (found["prefers_edge"].to_numpy() == (u[:, 0] < u[:, 1:].max(axis=1))).all()
    assert (
        found["margin"].to_numpy().tobytes() == router.margins(test.embeddings, [1.0])[0].tobytes()
    )
    assert (found["false_acceptance"] == (found["prefers_edge"] & found["accepted"])).all()


def test_each_request_is_judged_at_its_own_cost_weight(tmp_path, router, splits, sha256):
    test = splits[2]
    lams = router.calibration["lams"]
    parts = [
        traffic.records(
            router, test.embeddings[k::2], test.n_input_tokens[k::2], float(lam), 0.05,
            sha256=sha256, prefix="ab"[k],
        )
        for k, lam in enumerate((lams[3], lams[-3]))
    ]  # fmt: skip
    log = open_log(traffic.write(tmp_path / "d.jsonl", parts[0] + parts[1]))
    mixed = label(log, router, link="table")
    for lam in (lams[3], lams[-3]):
        alone = label(log, router, float(lam), link="table")
        rows = (mixed["lam"] == lam).to_numpy()
        assert rows.sum() == 250
        for name in ("margin", "prefers_edge"):
            assert (mixed[name].to_numpy()[rows] == alone[name].to_numpy()[rows]).all()


def test_link_states_as_measured_as_decided_with_and_drawn(log, router, records):
    traffic_ = traffic_of(log, router)
    found, decided = link_states(traffic_, router), link_states(traffic_, router, "logged")
    drawn = link_states(traffic_, router, "table")
    for i, r in enumerate(records):
        assert decided[i].rate_ul_bps == r["link"]["rate_ul_bps"]
        assert found[i] == (decided[i] if r["link_measured"] else drawn[i])
    assert {bool(r["link_measured"]) for r in records} == {True, False}
    with pytest.raises(Cr2Error, match="link: expected 'measured', 'logged' or 'table'"):
        link_states(traffic_, router, link="both")


def test_budgets_and_models_that_were_down_are_replayed(tmp_path, router, records):
    names = router.models
    changes = {
        0: {"budget": {"latency_s": 1e-9, "energy_j": None, "usd": None}},
        1: {"budget": {"latency_s": 1e9, "energy_j": 1e9, "usd": None}},
        2: {"available": [names[1]]},
    }
    deferred = [i for i, r in enumerate(records) if r["place"] == "edge"]
    for k, change in changes.items():
        records[deferred[k]] |= change
    records[deferred[2]]["model"] = names[1]
    again = replay(traffic.write(tmp_path / "d.jsonl", records), router, 1.0, 0.05)
    assert again.left_out == {"whose budget no model keeps": 1}
    assert again.would.n == 499
    assert again.changed == 0
    assert again.would.share[names[1]] * 499 == [r["model"] for r in records].count(names[1]) - (
        records[deferred[0]]["model"] == names[1]
    )


def test_a_log_of_another_router_is_refused_unless_its_router_is_given(log, router, other):
    with pytest.raises(
        Cr2Error, match=r"margins that its gate does not give; pass the routers .* logged_by="
    ):
        replay(log, other, 1.0, 0.05)
    again = replay(log, other, 1.0, 0.05, logged_by=router)
    assert again.changed > 0
    assert again.logged.local_rate == replay(log, router, 1.0, 0.05).logged.local_rate


def test_a_recalibrated_router_needs_no_introduction(log, router, splits):
    new = pickle.loads(pickle.dumps(router))
    new.calibrate(splits[1].take(np.arange(0, len(splits[1]), 2)), alphas=(0.05,))
    assert new.to_bytes() != router.to_bytes()
    assert replay(log, new, 1.0, 0.05).would.n == 500


def test_another_encoder_is_refused(log, router, problem, splits, tmp_path, records):
    table = changed(splits[0], encoder=EncoderInfo("another", "c" * 64))
    stranger = cr2fast.fit(table, problem.costs, hidden=16, **QUICK)
    stranger.calibrate(changed(splits[1], encoder=table.encoder), alphas=(0.05,))
    with pytest.raises(Cr2Error, match="mean nothing to this router"):
        replay(log, stranger, 1.0, 0.05, logged_by=router)
    narrow = [r | {"embedding": r["embedding"][:8]} for r in records]
    path = traffic.write(tmp_path / "narrow.jsonl", narrow)
    with pytest.raises(Cr2Error, match="width 40, the router's, got 8"):
        replay(path, router, 1.0, 0.05)
    # The same width and the same hash of the router, but an encoder that was swapped underneath.
    swapped = [r | {"router": "b" * 64, "embedding": r["embedding"][::-1]} for r in records]
    path = traffic.write(tmp_path / "swapped.jsonl", swapped)
    with pytest.raises(Cr2Error, match="got 500 rows of the router bbbb"):
        label(path, router)


def test_an_edges_log_alone_needs_its_router(tmp_path, router, records):
    blank = {"margin": None, "threshold": None, "router": "b" * 64}
    path = traffic.write(tmp_path / "d.jsonl", [r | blank for r in records])
    with pytest.raises(Cr2Error, match="no margins to compare"):
        label(path, router)


def test_requests_that_no_threshold_decided_are_left_out_by_why(tmp_path, router, records):
    rows = [r | {"why": "direct"} for r in records[:3]] + [records[3] | {"embedding": None}]
    path = traffic.write(tmp_path / "d.jsonl", [*rows, *records[4:]])
    again = replay(path, router, 1.0, 0.05)
    assert again.left_out == {"direct": 3, "no embedding or token count": 1}
    assert again.would.n == 496
    assert "3 direct" in str(again)
    none = traffic.write(tmp_path / "none.jsonl", [r | {"embedding": None} for r in records])
    with pytest.raises(Cr2Error, match="embedding = true in the gateway's"):
        replay(none, router, 1.0, 0.05)


def test_a_point_off_the_grid_and_a_router_without_thresholds(log, router, fitted):
    with pytest.raises(OperatingPointError, match="nearest"):
        replay(log, router, 1.01, 0.05)
    with pytest.raises(OperatingPointError, match="call calibrate first"):
        replay(log, cr2fast.Router(fitted._core), 1.0, 0.05)
    with pytest.raises(TypeError, match="router: expected a Router"):
        replay(log, "router.safetensors", 1.0, 0.05)


def test_several_points_are_those_of_each_alone(log, router):
    points = [(1.0, 0.01), (1.0, 0.1)]
    together = replays(log, router, points)
    assert [r.to_dict() for r in together] == [replay(log, router, *p).to_dict() for p in points]
    json.dumps(together[0].to_dict())


def test_failures_over_to_the_other_place_keep_their_decision(tmp_path, router, records):
    first = next(i for i, r in enumerate(records) if r["place"] == "device")
    moved = {"place": "edge", "model": router.models[1], "why": "device-down"}
    path = traffic.write(
        tmp_path / "d.jsonl", [*records[:first], records[first] | moved, *records[first + 1 :]]
    )
    found = label(path, router)
    assert found["accepted"][first]
    again = replay(path, router, 1.0, 0.05)
    assert again.changed == 1 / 500
    assert again.would.local_rate == again.logged.local_rate + 1 / 500


def test_money_is_replayed_where_the_table_has_prices(tmp_path, splits, problem):
    prices = {
        m: {"usd_per_input_token": k * 1e-6, "usd_per_output_token": k * 4e-6}
        for k, m in enumerate(problem.table.models)
    }
    costs = cr2fast.CostTable.of_prices(prices)
    router = cr2fast.fit(splits[0], costs, hidden=16, **QUICK)
    router.calibrate(splits[1], alphas=(0.05,))
    lam = float(router.calibration["lams"][5])
    test = splits[2]
    rows = traffic.records(router, test.embeddings, test.n_input_tokens, lam, 0.05)
    again = replay(traffic.write(tmp_path / "d.jsonl", rows), router, lam, 0.05)
    assert again.would.latency_s is None
    assert again.would.energy_j is None
    assert again.would.usd > 0
    assert again.would == again.logged


def test_the_frame_of_a_replay_can_be_narrowed(log, router):
    whole = open_log(log)
    part = changed(whole, frame=whole.frame.filter(pl.col("place") == "device"))
    again = replay(part, router, 1.0, 0.05)
    assert again.would.local_rate == 1.0


def test_another_problem_altogether(tmp_path, router, records):
    strange = make_routing_problem(n=300, d=40, models=3, seed=9)
    stranger = cr2fast.fit(strange.table.split(seed=0)[0], strange.costs, hidden=16, **QUICK)
    stranger.calibrate(strange.table.split(seed=0)[1], alphas=(0.05,))
    path = traffic.write(tmp_path / "d.jsonl", records)
    with pytest.raises(Cr2Error, match="pass the routers .* logged_by="):
        replay(path, stranger, 1.0, 0.05)
