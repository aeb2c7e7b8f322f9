"""The alarm against its definition, against MAPIE's, and its state."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast import RiskAlarm
from testing import oracle

ALPHA, DELTA = 0.05, 0.01


def losses_of(rng, n, risk):
    return (rng.random(n) < risk).astype(float)


@given(
    st.floats(1e-6, 0.999),
    st.floats(1e-9, 0.9),
    st.lists(st.tuples(st.floats(0, 1), st.one_of(st.just(0.0), st.floats(1, 1e6))), max_size=80),
)
def test_wealth_and_alarm_are_the_definition(alpha, delta, seen):
    losses, weights = np.array(seen, float).reshape(-1, 2).T
    alarm, said = RiskAlarm(alpha=alpha, delta=delta), []
    for loss, weight in seen:
        said.append(alarm.update(loss, weight))
        assert alarm.wealth == pytest.approx(np.exp(alarm.log_wealth), rel=1e-9)
    if not seen:
        assert (alarm.wealth, alarm.n) == (1, 0)
        assert np.isnan(alarm.mean)
        return
    expected = oracle.log_wealth(alpha, losses, weights)
    assert alarm.log_wealth == pytest.approx(expected[-1], rel=1e-9, abs=1e-9)
    assert alarm.n == len(seen)
    assert alarm.mean == pytest.approx((losses * weights).mean())
    limit = -np.log(delta)
    clear = np.abs(expected - limit) > 1e-6
    crossed = np.maximum.accumulate(expected >= limit)
    if clear.all():
        assert said == crossed.tolist()
        assert alarm.alarmed_at == (1 + int(crossed.argmax()) if crossed.any() else None)
    many = RiskAlarm(alpha, delta)
    assert many.update_many(losses, weights) == said[-1]
    assert many.to_bytes() == alarm.to_bytes()


def test_a_million_updates_of_either_kind_are_the_definition():
    rng = np.random.default_rng(0)
    for risk in (0.0, ALPHA, 1.0):
        losses = losses_of(rng, 10**6, risk) if 0 < risk < 1 else np.full(10**6, risk)
        alarm = RiskAlarm(ALPHA, DELTA)
        alarm.update_many(losses)
        expected = oracle.log_wealth(ALPHA, losses)[-1]
        assert alarm.log_wealth == pytest.approx(expected, rel=1e-9)
        assert RiskAlarm.from_bytes(alarm.to_bytes()) == alarm


def test_booleans_are_losses_and_nothing_changes_where_one_is_bad():
    a, b = RiskAlarm(ALPHA, DELTA), RiskAlarm(ALPHA, DELTA)
    a.update_many(np.array([True, False, True]))
    b.update_many([1, 0, 1])
    assert a == b
    one = RiskAlarm(ALPHA, DELTA)
    for loss in (True, np.False_, 1):
        one.update(loss)
    assert one == a
    state = a.to_bytes()
    for losses, weights in [
        ([0.0, 1.5], None),
        ([0.0, -0.1], None),
        ([0.0, np.nan], None),
        ([0.0, 1.0], [1.0, 0.5]),
        ([0.0, 1.0], [1.0, np.inf]),
        ([0.0, 1.0], [1.0, 1e7]),
        ([0.0, 1.0], [1.0]),
        ([[0.0, 1.0]], None),
        (0.5, None),
        (np.ma.masked_array([0.0, 1.0], [False, True]), None),
    ]:
        with pytest.raises(cr2fast.Cr2Error) as e:
            a.update_many(losses, weights)
        assert len(str(e.value)) < 400
    for wrong in ("one", None, ["a"], [1j]):
        with pytest.raises(TypeError):
            a.update_many(wrong)
    with pytest.raises(TypeError, match="loss: expected a number, got str"):
        a.update("1")
    assert a.to_bytes() == state


@pytest.mark.parametrize("bad", [0, 1, -0.1, 1.5, np.nan, np.inf])
def test_levels_out_of_range(bad):
    with pytest.raises(cr2fast.Cr2Error, match="alpha: expected a risk level"):
        RiskAlarm(alpha=bad, delta=DELTA)
    with pytest.raises(cr2fast.Cr2Error, match="delta: expected a number in"):
        RiskAlarm(alpha=ALPHA, delta=bad)


def test_a_float32_level_is_its_decimal():
    assert RiskAlarm(np.float32(0.05), DELTA) == RiskAlarm(0.05, DELTA)


@given(st.integers(0, 400), st.integers(0, 2**32 - 1))
def test_merged_states_are_one_sequence(cut, seed):
    losses = losses_of(np.random.default_rng(seed), 400, 0.1)
    parts = [RiskAlarm(ALPHA, DELTA) for _ in range(3)]
    parts[0].update_many(losses[:cut])
    parts[1].update_many(losses[cut:])
    parts[2].update_many(losses)
    merged = parts[0].merge(parts[1])
    assert merged == parts[1].merge(parts[0])
    assert merged.n == 400
    assert merged.log_wealth == pytest.approx(parts[2].log_wealth, rel=1e-9, abs=1e-9)
    assert merged.mean == pytest.approx(parts[2].mean)
    # What a part saw stays said; the whole may also cross together.
    if parts[0].alarmed or parts[1].alarmed:
        assert merged.alarmed
    if not merged.alarmed:
        assert merged.wealth < 1 / DELTA


def test_a_merge_of_others_is_refused():
    a = RiskAlarm(ALPHA, DELTA)
    with pytest.raises(
        cr2fast.Cr2Error, match="merge: expected an alarm of the same alpha, 0.05, got 0.1"
    ):
        a.merge(RiskAlarm(0.1, DELTA))
    with pytest.raises(cr2fast.Cr2Error, match="same delta"):
        a.merge(RiskAlarm(ALPHA, 0.1))
    with pytest.raises(TypeError):
        a.merge(cr2fast.RollingThreshold(ALPHA, 0.0))


def test_state_files():
    alarm = RiskAlarm(ALPHA, DELTA)
    alarm.update_many([0, 1, 0.5], [1, 2, 3])
    data = alarm.to_bytes()
    assert len(data) < 300
    for again in (pickle.loads(pickle.dumps(alarm)), copy.copy(alarm), copy.deepcopy(alarm)):
        assert again == alarm
        again.update(1.0)
        assert again != alarm, "a copy is a state of its own"
    assert RiskAlarm.from_bytes(data, alpha=ALPHA, delta=DELTA) == alarm
    with pytest.raises(cr2fast.StateError, match="alarm state: expected alpha 0.1, got 0.05"):
        RiskAlarm.from_bytes(data, alpha=0.1)
    with pytest.raises(cr2fast.StateError, match="alarm state: expected delta 0.1"):
        RiskAlarm.from_bytes(data, delta=0.1)
    other = cr2fast.RollingThreshold(ALPHA, 0.0).to_bytes()
    with pytest.raises(cr2fast.StateError, match='starts with "cr2fast.risk_alarm/1"'):
        RiskAlarm.from_bytes(other)


@given(st.data())
def test_no_bytes_crash_it(data):
    good = bytearray(RiskAlarm(ALPHA, DELTA).to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    bad = bytes(good)[: data.draw(st.integers(0, len(good)))] + data.draw(st.binary(max_size=4))
    if bad == RiskAlarm(ALPHA, DELTA).to_bytes():
        return
    with pytest.raises(cr2fast.StateError) as e:
        RiskAlarm.from_bytes(bad)
    assert len(str(e.value)) < 400


def test_threads_share_one_alarm():
    alarm = RiskAlarm(ALPHA, DELTA)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: [alarm.update(0.25) for _ in range(500)], range(8)))
    alone = RiskAlarm(ALPHA, DELTA)
    alone.update_many(np.full(4000, 0.25))
    assert alarm == alone


def test_mapie_comes_to_the_same_verdicts():
    """Its alarm is a lower confidence sequence of the risk against a threshold: another bound of the
    same kind. Where streams are clear both say the same, and neither accuses a good router."""
    monitoring = pytest.importorskip(
        "mapie.exchangeability_testing", reason="mapie >= 1.4 is not installed"
    )
    rng = np.random.default_rng(4)
    for risk, verdict in [(0.01, False), (0.04, False), (0.05, False), (0.15, True), (0.4, True)]:
        losses = losses_of(rng, 2500, risk)
        theirs = monitoring.RiskMonitoring(
            risk="accuracy", test_level=2 * DELTA, threshold=ALPHA, warn=False
        )
        # What it calls accuracy's risk is 1 where the prediction is wrong.
        theirs.update(np.ones(2500, int), 1 - losses.astype(int))
        np.testing.assert_array_equal(theirs.online_risk_sequence_history, losses)
        ours = RiskAlarm(ALPHA, DELTA)
        assert ours.update_many(losses) == theirs.harmful_shift_detected == verdict
        if verdict:
            bounds = theirs.online_risk_lower_bound_sequence_history
            # A bet on 0 and 1 is sharper than a bound for anything in between.
            assert ours.alarmed_at <= 1 + int((bounds > ALPHA).argmax())
