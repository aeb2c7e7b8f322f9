"""Messages have a bounded length, whatever a caller hands in."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast

LONG = "x" * 100_000
MANY = [float(i) for i in range(100_000)]


@pytest.mark.parametrize(
    "call",
    [
        lambda t, c, r: cr2fast.fit(t, c, recipe=LONG),
        lambda t, c, r: cr2fast.fit(t, c, lengths=MANY),
        lambda t, c, r: cr2fast.fit(t, c, lam_range=MANY),
        lambda t, c, r: cr2fast.fit(t, c, hidden=LONG),
        lambda t, c, r: cr2fast.fit(t, c, **{LONG: 1}),
        lambda t, c, r: cr2fast.fit(t, c, seed=LONG),
        lambda t, c, r: r.calibrate(t, alphas=[LONG]),
        lambda t, c, r: r.calibrate(t, alphas=[0.5] * 100_000),
        lambda t, c, r: r.calibrate(t, lams=[1e5 + i for i in MANY]),
        lambda t, c, r: r.calibrate(t, judge=LONG),
        lambda t, c, r: r.check_drift([LONG], lam=1.0),
        lambda t, c, r: r.check_drift([0.0], lam=LONG),
        lambda t, c, r: cr2fast.evaluate(r, t, deferred=MANY),
        lambda t, c, r: t.split([LONG]),
        lambda t, c, r: t.split(MANY),
        lambda t, c, r: t.take([10**9]),
    ],
)
def test_a_message_is_bounded(problem, splits, router, call):
    table = splits[2]
    with pytest.raises(cr2fast.Cr2Error) as error:
        call(table, problem.costs, router)
    assert len(str(error.value)) < 1000
    assert np.char.count(str(error.value), "\n") == 0
