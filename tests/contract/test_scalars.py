"""One rule for numbers: whoever makes them, they mean the same (issue 13, item 8)."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import cr2fast
from cr2fast import _core
from cr2fast.calibration import index_of

ONE = [1, 1.0, np.int64(1), np.uint8(1), np.float32(1), np.float64(1), np.array(1), np.array(1.0, "f4")]  # fmt: skip
TWENTIETH = [0.05, np.float32(0.05), np.float16(0.05), np.float64(0.05), np.array(0.05, "f4"),
             Decimal("0.05"), Fraction(1, 20), np.longdouble("0.05")]  # fmt: skip
NO_NUMBER = [
    True,
    np.True_,
    "0.05",
    None,
    1j,
    [0.05],
    np.array([0.05]),
    np.ma.masked,
    b"1",
    object(),
]


@pytest.mark.parametrize("value", TWENTIETH)
def test_a_number_means_the_decimal_that_it_was_typed_as(value):
    assert _core.number(value, "x") == 0.05


@pytest.mark.parametrize("value", NO_NUMBER)
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises((TypeError, cr2fast.Cr2Error), match=r"^x: expected"):
        _core.number(value, "x")
    with pytest.raises((TypeError, cr2fast.Cr2Error), match=r"^x: expected"):
        _core.count(value, "x")


@pytest.mark.parametrize(
    "value", [1.0, np.float32(1), Fraction(1), -1, np.int8(-1), 2**70, 10**400], ids=repr
)
def test_a_count_is_a_whole_number_of_any_integer_type(value):
    with pytest.raises((TypeError, cr2fast.Cr2Error), match=r"^x: expected a whole number"):
        _core.count(value, "x")
    for good in (3, np.int64(3), np.uint16(3), np.array(3)):
        assert _core.count(good, "x") == 3


def test_numbers_that_a_double_cannot_hold_are_named():
    with pytest.raises(cr2fast.Cr2Error, match="x: expected a number within"):
        _core.number(10**400, "x")


@pytest.mark.parametrize("lam", ONE)
@pytest.mark.parametrize("alpha", TWENTIETH)
def test_every_call_that_takes_an_operating_point_takes_it_from_numpy(router, artifact, lam, alpha):
    device = cr2fast.DeviceRouter.load(artifact, lam, alpha)
    assert (device.lam, device.alpha) == (1.0, 0.05)
    assert router.device(lam, alpha).threshold == device.threshold
    assert router.edge(lam).lam == cr2fast.EdgeSelector.load(artifact, lam).lam == 1.0
    c = router.calibration
    assert index_of(c["lams"], lam, "lam") == index_of(c["lams"], 1.0, "lam")
    assert index_of(c["alphas"], alpha, "alpha") == 1


def test_grids_and_counts_of_every_call(router, splits, problem):
    test = splits[2]
    x = test.embeddings
    evaluation = cr2fast.evaluate(router, test, seed=np.int64(0))
    at = evaluation.at(lam=np.int64(1), alpha=np.float32(0.05))
    np.testing.assert_equal(at, evaluation.at(1.0, 0.05))
    margins = router.margins(x, [0.28, 1.0])
    for lams in (np.float32([0.28, 1]), [np.float32(0.28), np.int64(1)], np.float16([0.28, 1])):
        np.testing.assert_array_equal(router.margins(x, lams), margins)
    assert router.check_drift(margins[1], lam=np.float32(1), level=np.float32(0.01)).lam == 1.0
    scores, edge = (
        np.random.default_rng(0).normal(size=(1, 99)).astype("f4"),
        np.ones((1, 99), bool),
    )
    expected = cr2fast.crc_thresholds(scores, edge, [0.29])
    for alphas in (np.float32([0.29]), [np.float32(0.29)], np.array([0.29])):
        np.testing.assert_array_equal(cr2fast.crc_thresholds(scores, edge, alphas), expected)
    report = router.calibrate(splits[1], lams=np.float32([0.28]), alphas=np.float32([0.05]))
    assert (report.lams.tolist(), report.alphas.tolist()) == ([0.28], [0.05])
    device = router.device(np.float32(0.28), np.float32(0.05))
    many = device.route_batch(x, threads=np.int64(2))
    np.testing.assert_array_equal(many, device.route_batch(x, threads=np.array(1)))
    state = cr2fast.LinkState(np.float32(2e7), np.int64(80_000_000), np.float32(0.018))
    assert state == cr2fast.LinkState(2e7, 8e7, 0.018)
    edge_of = router.edge(np.float32(0.28))
    assert edge_of.select(x[0], np.uint32(30), state) == edge_of.select(x[0], 30, state)
    assert len(problem.costs.sample_states(np.int64(3), np.uint8(1))) == 3
    assert problem.costs.with_normalizers(np.int64(1), np.float32(0.5)).normalizers == (1.0, 0.5)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda r, x: r.device("1", 0.05), "lam"),
        (lambda r, x: r.device(1.0, True), "alpha"),
        (lambda r, x: r.edge(None), "lam"),
        (lambda r, x: r.device(1.0, 0.05).route_batch(x, threads=1.5), "threads"),
        (lambda r, x: r.device(1.0, 0.05).margins(x, threads=-1), "threads"),
        (lambda r, x: cr2fast.LinkState(2e7, 8e7, "fast"), "rtt_s"),
        (lambda r, x: r.costs.sample_states(-1, 0), "n"),
        (lambda r, x: r.costs.sample_states(1, 2**64), "seed"),
        (lambda r, x: r.margins(x, np.ma.MaskedArray([1.0], [True])), "lams"),
        (lambda r, x: r.margins(np.ma.MaskedArray(x, x > 0), [1.0]), "embeddings"),
        (lambda r, x: r.predict_lengths(x[:1], np.ma.MaskedArray([3], [True])), "n_input_tokens"),
        (lambda r, x: r.device(1.0, 0.05).route(np.ma.MaskedArray(x[0], x[0] > 0)), "embedding"),
    ],
)
def test_what_is_wrong_is_named(router, splits, call, name):
    with pytest.raises((TypeError, cr2fast.Cr2Error), match=f"^{name}: expected") as caught:
        call(router, splits[2].embeddings)
    assert "usize" not in str(caught.value)
