"""Calibrating on queries alone: the teacher judges, so no answer is needed."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alphas": (0.02, 0.1), "lams": (0.2, 1.0, 5.0)},
        {"simultaneous": True, "delta": 0.2, "lams": (1.0,)},
        {"defer_atypical": 0.05, "seed": 3},
    ],
)
def test_thresholds_are_the_bits_of_the_same_rows_with_answers(fitted, splits, options):
    with_answers, without = (cr2fast.Router(fitted._core) for _ in range(2))
    a = with_answers.calibrate(splits[1], **options)
    b = without.calibrate(splits[1].queries(), **options)
    assert a.thresholds.tobytes() == b.thresholds.tobytes()
    for name in ("lams", "alphas", "empirical_risk", "local_rate"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.n, a.allowed, a.statement) == (b.n, b.allowed, b.statement)
    kept = without.calibration
    assert kept["quantiles"].tobytes() == with_answers.calibration["quantiles"].tobytes()


def test_what_needs_answers_says_so(fitted, splits):
    router, queries = cr2fast.Router(fitted._core), splits[1].queries()
    with pytest.raises(
        cr2fast.Cr2Error, match="recorded answers, got a QueryTable.*judge='teacher'"
    ):
        router.calibrate(queries, judge="outcomes")
    with pytest.raises(cr2fast.Cr2Error, match="recorded output lengths.*lengths='predicted'"):
        router.calibrate(queries, lengths="known")
    with pytest.raises(TypeError, match="test split: expected a RoutingTable, got QueryTable"):
        cr2fast.evaluate(calibrated(router, queries), splits[2].queries())


def calibrated(router, queries):
    router.calibrate(queries)
    return router


def test_queries_of_training_are_refused_and_never_advised_to_be_dropped(fitted, splits):
    router = cr2fast.Router(fitted._core)
    with pytest.raises(cr2fast.SplitOverlapError, match="calibration split"):
        router.calibrate(splits[0].queries())
    with pytest.raises(cr2fast.SplitOverlapError, match="got .* that it has, every one") as caught:
        router.calibrate(splits[0].queries(), overlap="drop")
    assert "drop" not in str(caught.value)
