"""Recalibration from a log: thresholds with a calibration's bits, and windows that are refused."""

from __future__ import annotations

import json

import pytest

import cr2fast
from cr2fast import Cr2Error, InfeasibleAlphaError, QueryTable
from cr2fast.traffic import label, recalibrate
from testing import traffic
from testing.traffic import served

LAM, ALPHA = 1.0, 0.05


def test_recalibration_gives_the_bits_of_a_calibration_on_the_same_queries(world, tmp_path):
    path, later, still, _ = world
    router = cr2fast.Router.load(path)
    log = traffic.write(tmp_path / "d.jsonl", served(path, later, still))
    before = router.to_bytes()
    done = recalibrate(log, router)
    assert router.to_bytes() == before
    rows = still[:2400]
    again = cr2fast.Router.load(path)
    again.calibrate(
        QueryTable(
            query_ids=tuple(traffic.request_id(i) for i in range(2400)),
            embeddings=later.embeddings[rows],
            n_input_tokens=later.n_input_tokens[rows],
            encoder=later.encoder,
        ),
        alphas=(0.05, 0.1),
        lams=[0.3, LAM, 3.0],
    )
    assert done.router.to_bytes() == again.to_bytes()
    assert (done.after == again.calibration["thresholds"]).all()
    assert done.good
    assert (done.report.n, done.held[0].n) == (2400, 600)
    assert [(h.lam, h.alpha) for h in done.held] == [(LAM, ALPHA)]
    assert [d.drifted for d in done.drift] == [False]
    json.dumps(done.to_dict())
    assert "2400 requests calibrate, 600 are held" in str(done)


def test_thresholds_move_to_where_the_promise_holds_again(world, tmp_path):
    path, later, _, moved = world
    router = cr2fast.Router.load(path)
    log = traffic.write(tmp_path / "d.jsonl", served(path, later, moved))
    assert label(log, router, link="table")["false_acceptance"].mean() > 1.5 * ALPHA
    done = recalibrate(log, router)
    assert done.drift[0].drifted
    assert done.good
    (held,) = done.held
    assert held.risk < 1.5 * ALPHA
    assert (done.after[1] > done.before[1]).all()


def test_a_window_that_moved_within_itself_fails_its_check(world, tmp_path):
    path, later, still, moved = world
    rows = served(path, later, still[:2400]) + served(
        path, later, moved[:600], start_s=24_000, prefix="b"
    )
    done = recalibrate(traffic.write(tmp_path / "d.jsonl", rows), cr2fast.Router.load(path))
    assert not done.good
    assert "BAD" in str(done)


def test_what_recalibration_refuses(world, tmp_path):
    path, later, still, _ = world
    router = cr2fast.Router.load(path)
    few = traffic.write(tmp_path / "few.jsonl", served(path, later, still[:20]))
    with pytest.raises(InfeasibleAlphaError):
        recalibrate(few, router)
    rows = served(path, later, still[:400])
    for r in rows:
        if r["place"] == "device":
            r["embedding"] = None
    one_place = traffic.write(tmp_path / "one.jsonl", rows)
    with pytest.raises(Cr2Error, match="embeddings of accepted requests too"):
        recalibrate(one_place, router)
    for keyword in ("held", "level"):
        for bad in (0, 1, float("nan"), "x"):
            with pytest.raises(Cr2Error, match=keyword):
                recalibrate(few, router, **{keyword: bad})
