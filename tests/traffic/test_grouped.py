"""Logs whose requests name their group: labels, replay, recalibration and watch, within each."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest

import cr2fast
from cr2fast import RiskAlarm
from cr2fast._util import seeds
from cr2fast.traffic import Watch, label, open_log, recalibrate, replay
from cr2fast.traffic.label import link_states, traffic_of
from testing import traffic

LAM, ALPHA = 1.0, 0.1


@pytest.fixture(scope="module")
def grouped(fitted, splits):
    router = cr2fast.Router(fitted._core)
    router.calibrate(splits[1], alphas=(0.05, ALPHA), groups="category")
    return router


@pytest.fixture
def rows(grouped, splits):
    """Requests by the rule of their group; each tenth names none, one an unknown one."""
    test = splits[2]
    device = grouped.device(LAM, ALPHA)
    out = traffic.records(grouped, test.embeddings, test.n_input_tokens, LAM, ALPHA)
    for i, row in enumerate(out):
        group = None if i % 10 == 0 else "never seen" if i == 1 else test.categories[i]
        decision = device.route(test.embeddings[i], group=group)
        row["threshold"] = traffic.number(np.float32(decision.threshold))
        row["place"] = "device" if decision.local else "edge"
        row["why"] = "accepted" if decision.local else "deferred"
        row["model"] = grouped.models[0 if decision.local else 1]
        if group is not None:
            row["group"] = group
    return out


def test_a_replay_gives_each_request_its_groups_threshold(tmp_path, grouped, rows):
    log = traffic.write(tmp_path / "d.jsonl", rows)
    again = replay(log, grouped, LAM, ALPHA)
    assert again.changed == 0
    assert again.would.local_rate == np.mean([r["place"] == "device" for r in rows])
    labels = label(log, grouped)
    assert labels["group"].to_list() == [r.get("group") for r in rows]
    assert labels["accepted"].to_list() == [r["place"] == "device" for r in rows]


def test_a_recalibration_is_that_of_the_groups_own_requests(tmp_path, grouped, rows, splits):
    log = traffic.write(tmp_path / "d.jsonl", rows)
    done = recalibrate(log, grouped, seed=3)
    named = [i for i, r in enumerate(rows) if "group" in r and i < 400]
    assert done.report.n == len(named)
    assert done.left_out["that name no group"] == 400 - len(named)
    # The oracle: the same rows through calibrate.
    test = splits[2]
    other = cr2fast.Router(grouped._core)
    other.calibrate(
        cr2fast.QueryTable(
            query_ids=tuple(rows[i]["id"] for i in named),
            embeddings=test.embeddings[named],
            n_input_tokens=test.n_input_tokens[named],
            encoder=grouped.encoder,
        ),
        alphas=[0.05, ALPHA], lams=grouped.calibration["lams"], groups=[rows[i]["group"] for i in
        named], on_infeasible="defer", judge="teacher", lengths="predicted", seed=3,
    )  # fmt: skip
    groups = other.calibration["groups"]
    assert list(done.groups_after) == groups["names"]
    for name, thresholds in zip(groups["names"], groups["thresholds"], strict=True):
        assert done.groups_after[name].tobytes() == thresholds.tobytes()
    assert (done.groups_after["never seen"] == np.inf).all(), "one request promises nothing"
    assert {h.group for h in done.held} <= set(groups["names"])
    assert sum(h.n for h in done.held) == sum("group" in r for r in rows[400:])
    assert "group '" in str(done)
    json.dumps(done.to_dict())


def test_a_window_without_groups_says_so(tmp_path, grouped, rows):
    for row in rows:
        row.pop("group", None)
    log = traffic.write(tmp_path / "d.jsonl", rows)
    with pytest.raises(cr2fast.Cr2Error, match="requests that name their group, got none"):
        recalibrate(log, grouped)


def test_each_group_has_its_alarm(tmp_path, grouped, rows):
    log = traffic.write(tmp_path / "d.jsonl", rows)
    grouped.save(tmp_path / "router.safetensors")
    args = (log, tmp_path / "router.safetensors", tmp_path / "watch.json", [(LAM, ALPHA)])
    at = traffic.START + timedelta(seconds=1000)
    first = Watch(*args).look(at)
    labels = label(log, grouped)
    for point in first.points:
        own = labels.filter(labels["group"] == point.group)["false_acceptance"].to_numpy()
        alarm = RiskAlarm(ALPHA, 0.01)
        alarm.update_many(own.astype(float))
        assert (point.n, point.risk) == (alarm.n, alarm.mean)
        assert point.wealth == alarm.wealth
    names = grouped.calibration["groups"]["names"]
    assert [p.group for p in first.points] == list(names)
    again = Watch(*args).look(at)  # what was counted is not counted again
    assert [p.new for p in again.points] == [0] * len(names)
    assert [p.n for p in again.points] == [p.n for p in first.points]


def test_measured_links_calibrate(tmp_path, router, records, splits):
    test = splits[2]
    # Drawn states that are given calibrate as those that are drawn.
    one, two = cr2fast.Router(router._core), cr2fast.Router(router._core)
    drawn = router.costs.sample_states(len(test), seeds.CALIBRATION + 5)
    one.calibrate(test, alphas=[ALPHA], seed=5)
    two.calibrate(test, alphas=[ALPHA], states=drawn)
    assert one.calibration["thresholds"].tobytes() == two.calibration["thresholds"].tobytes()
    with pytest.raises(cr2fast.Cr2Error, match="states: expected 500, one per query, got 3"):
        two.calibrate(test, alphas=[ALPHA], states=router.costs.sample_states(3, 0))
    with pytest.raises(TypeError, match="states"):
        two.calibrate(test, alphas=[ALPHA], states=[1.0] * 500)
    # A link that got slow shows in thresholds that are made with it.
    for row in records:
        row["link"] = {"rtt_s": 30.0, "rate_ul_bps": 1e3, "rate_dl_bps": 1e3}
        row["link_measured"] = ["rtt_s", "rate_ul_bps", "rate_dl_bps"]
    log = traffic.write(tmp_path / "d.jsonl", records)
    measured = recalibrate(log, router, link="measured")
    lam = int(np.abs(measured.report.lams - 1.0).argmin())
    assert (measured.after[lam] <= recalibrate(log, router).after[lam]).all()
    taken = traffic_of(log, router)
    states = link_states(taken, router, "measured")
    assert set(states.rtt_s) == {30.0}
    # By NumPy: the labels at those states, and the rule of conformal risk control on them.
    x, n = taken.embeddings[:400], taken.n_input_tokens[:400]
    slow = cr2fast.LinkStates([1e3] * 400, [1e3] * 400, [30.0] * 400)
    cost = router.costs.cost(n, router.predict_lengths(x, n), slow).astype(np.float64)
    u = router.accuracies(x).astype(np.float64) - measured.report.lams[lam] * cost
    margins = np.sort(router.margins(x, [1.0])[0][u[:, 0] < u[:, 1:].max(axis=1)])[::-1]
    for j, alpha in enumerate(measured.report.alphas):
        k = int(np.floor(alpha * 401 - 1 + 1e-9))
        tau = np.nextafter(margins[k], np.float32(np.inf)) if k < len(margins) else -np.inf
        assert measured.after[lam, j] == tau
    with pytest.raises(cr2fast.Cr2Error, match="link: expected"):
        recalibrate(log, router, link="guessed")


def test_a_draw_is_the_requests_own(tmp_path, router, records):
    whole = label(traffic.write(tmp_path / "a.jsonl", records), router)
    part = label(traffic.write(tmp_path / "b.jsonl", records[100:200]), router)
    assert part["prefers_edge"].to_list() == whole["prefers_edge"][100:200].to_list()


def test_queues_are_priced_as_they_were(tmp_path, router, records):
    """A replay of edge decisions made under load gives what was done."""
    rng = np.random.default_rng(0)
    edge, moved = router.edge(LAM), 0
    log = open_log(traffic.write(tmp_path / "plain.jsonl", records))
    taken = traffic_of(log, router)
    states = link_states(taken, router, "logged")
    for i, row in enumerate(records):
        if row["place"] == "device":
            continue
        waits = {m: float(w) for m, w in zip(router.models[1:], rng.exponential(20.0, 9))}  # noqa: B905
        args = (taken.embeddings[i], taken.n_input_tokens[i], states[i])
        chosen = edge.select(*args, waiting_s=waits)
        moved += chosen.model != edge.select(*args).model
        row |= {"model": chosen.model, "queueing_s": waits, "available": list(waits)}
        as_list = edge.select(*args, waiting_s=[0.0, *waits.values()])
        assert as_list.model == chosen.model
    assert moved
    again = replay(traffic.write(tmp_path / "d.jsonl", records), router, LAM, 0.05)
    assert again.would.share == again.logged.share
    with pytest.raises(cr2fast.Cr2Error, match="waiting_s: expected names among"):
        edge.select(*args, waiting_s={"nobody": 1.0})
    for bad in ([1.0], "slow", {router.models[1]: "slow"}):
        with pytest.raises(cr2fast.Cr2Error, match="waiting_s: expected seconds by model name"):
            edge.select(*args, waiting_s=bad)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(cr2fast.Cr2Error, match=r"waiting_s\[1\]: expected seconds, at least 0"):
            edge.select(*args, waiting_s={router.models[1]: bad})
