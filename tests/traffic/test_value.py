"""What grades and shadows say of another point, beside the truth of a made-up world."""

from __future__ import annotations

import numpy as np
import pytest

from cr2fast.traffic import open_log, replay
from testing import traffic

LAM = 1.0
OTHER = {"device": "edge", "edge": "device"}


def graded(records, correct, models, pi, rng, *, rate=1.0):
    """Grades of all answers, and shadows with probability `pi`, graded at `rate`."""
    lines = []
    for i, record in enumerate(records):
        lines.append(record)
        where = record["place"]
        # The side as a whole: the edge's answer is that of the model it would have chosen.
        score = {"device": correct[i, 0], "edge": correct[i, 1:].max()}
        base = {
            "schema": "cr2fast.decision_log/1", "id": record["id"], "ts": record["ts"],
        }  # fmt: skip
        if rng.random() < pi:
            record["shadow"] = pi
            lines.append(
                base
                | {
                    "kind": "shadow", "place": OTHER[where], "model": None, "outcome": "answered",
                    "failure": None, "router": record["router"], "propensity": pi,
                }
            )  # fmt: skip
            if rng.random() < rate:
                grade = {"place": OTHER[where], "score": float(score[OTHER[where]])}
                lines.append(base | {"kind": "outcome"} | grade)
        if rng.random() < rate:
            lines.append(
                base | {"kind": "outcome", "place": "answer", "score": float(score[where])}
            )
    return lines


@pytest.mark.parametrize("rate", [1.0, 0.8])
def test_intervals_hold_the_truth_of_another_point(router, splits, sha256, tmp_path, rate):
    test = splits[2]
    where = router.device(LAM, 0.1).route_batch(test.embeddings)
    truth = np.where(where, test.correct[:, 0], test.correct[:, 1:].max(axis=1))
    held = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = traffic.records(
            router, test.embeddings, test.n_input_tokens, LAM, 0.01, sha256=sha256
        )
        lines = graded(rows, test.correct, router.models, 0.5, rng, rate=rate)
        again = replay(traffic.write(tmp_path / "d.jsonl", lines), router, LAM, 0.1)
        assert again.value is not None, again.value_note
        assert again.value.method == "doubly-robust"
        # The truth of these very queries, which an interval for their distribution holds oftener.
        held += again.value.low <= truth.mean() <= again.value.high
    assert held >= 19


def test_the_logged_point_needs_no_shadow(router, splits, records, tmp_path):
    test = splits[2]
    lines = graded(records, test.correct, router.models, 0.0, np.random.default_rng(0))
    again = replay(traffic.write(tmp_path / "d.jsonl", lines), router, LAM, 0.05)
    where = router.device(LAM, 0.05).route_batch(test.embeddings)
    truth = np.where(where, test.correct[:, 0], test.correct[:, 1:].max(axis=1)).mean()
    assert again.value.value == pytest.approx(truth)
    assert again.measured.score == pytest.approx(truth)
    assert "Score at lam=1" in str(again)


def test_why_there_is_no_value(router, splits, records, tmp_path):
    test = splits[2]
    path = traffic.write(tmp_path / "d.jsonl", records)
    assert replay(path, router, LAM, 0.01).value_note == "no answer was graded"
    lines = graded(records, test.correct, router.models, 0.0, np.random.default_rng(0))
    again = replay(traffic.write(path, lines), router, LAM, 0.01)
    assert again.value is None
    assert "no shadow of any of them was graded" in again.value_note
    assert "unknown: " in str(again)
    assert again.to_dict()["value"] is None


def test_requests_outside_the_time_of_shadows_say_nothing_of_the_other_side(
    router, splits, records, tmp_path
):
    test, rng = splits[2], np.random.default_rng(0)
    lines = graded(records[:100], test.correct, router.models, 0.0, rng)
    lines += graded(records[100:400], test.correct[100:], router.models, 0.5, rng)
    lines += graded(records[400:], test.correct[400:], router.models, 0.0, rng)
    log = open_log(traffic.write(tmp_path / "d.jsonl", lines))
    again = replay(log, router, LAM, 0.1)
    assert 250 < again.value.n <= 300
