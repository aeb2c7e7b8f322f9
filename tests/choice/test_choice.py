"""The full-information choice: both tie rules, and the margin's sign."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast import _core
from testing import oracle

# Few values, so that utilities tie often.
VALUE = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 2, width=32)


@st.composite
def tables(draw):
    n, m = draw(st.integers(1, 6)), draw(st.integers(2, 5))
    cells = st.lists(st.lists(VALUE, min_size=m, max_size=m), min_size=n, max_size=n)
    return np.array(draw(cells), np.float32), np.array(draw(cells), np.float32)


@given(tables(), st.sampled_from([0.25, 1.0, 2.0, 7.3]))
def test_choices_and_margins_equal_the_definition(table, lam):
    p, c = table
    n, m = p.shape
    margins = _core.choice_margins(p, c, [lam])[0]
    everyone = _core.choices(p, c, [lam])[0]
    edge = _core.choices(p, c, [lam], first=1)[0]
    for i in range(n):
        assert margins[i] == oracle.margin(p[i], c[i], lam)
        assert everyone[i] == oracle.choose(p[i], c[i], lam, range(m))
        assert edge[i] == oracle.choose(p[i], c[i], lam, range(1, m))
        assert (margins[i] >= 0) == (everyone[i] == 0)


def test_a_tie_goes_to_the_smaller_cost_and_to_the_local_model_first():
    p = np.array([[0.5, 1.0, 0.75, 0.75]], np.float32)
    c = np.array([[0.0, 0.5, 0.25, 0.25]], np.float32)
    # All four have utility 0.5 at lam = 1.
    assert _core.choices(p, c, [1.0])[0, 0] == 0
    assert _core.choices(p, c, [1.0], first=1)[0, 0] == 2
    assert _core.choice_margins(p, c, [1.0])[0, 0] == 0


@given(tables())
def test_margin_grows_with_lam_where_local_is_cheapest(table):
    p, c = table
    c = c.copy()
    c[:, 0] = 0
    margins = _core.choice_margins(p, c, [0.1, 0.5, 1.0, 5.0])
    assert (np.diff(margins, axis=0) >= 0).all()


def test_bad_input_is_named():
    good = np.zeros((2, 3), np.float32)
    with pytest.raises(cr2fast.Cr2Error, match=r"costs: expected shape \[2, 3\], got \[2, 2\]"):
        _core.choices(good, good[:, :2], [1.0])
    with pytest.raises(cr2fast.Cr2Error, match="accuracies: expected finite"):
        _core.choices(good * np.nan, good, [1.0])
    with pytest.raises(cr2fast.Cr2Error, match="lam: expected a positive"):
        _core.choice_margins(good, good, [0.0])
    with pytest.raises(cr2fast.Cr2Error, match="first: expected under 3"):
        _core.choices(good, good, [1.0], first=3)
    with pytest.raises(cr2fast.Cr2Error, match="margins: expected a result that fits in memory"):
        _core.choice_margins(
            np.zeros((2_000_000, 2), np.float32),
            np.zeros((2_000_000, 2), np.float32),
            np.full(4_000_000, 1.0),
        )
    with pytest.raises(cr2fast.Cr2Error, match="lam: .*at most 1e12"):
        _core.choice_margins(good, good, [1e300])
    with pytest.raises(cr2fast.Cr2Error, match="2 <= M"):
        _core.choices(good[:, :1], good[:, :1], [1.0])
